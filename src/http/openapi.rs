//! `GET /openapi.json`: every call there is, described as OpenAPI 3.1 says. The schemas of our answers are made from the
//! structs that are answered; the paths are checked against the router's, and the answers against the document, by tests.

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::error::HttpError;

/// What stands for control characters in a pattern.
const CONTROL: &str = "\\u0000-\\u001f\\u007f-\\u009f";
/// What the ids of a batch look like.
const BATCH_ID: &str = "^[A-Za-z0-9_.-]{1,64}-[0-9]+-[0-9]+$";
const CLIENT: &str = "^[A-Za-z0-9_.-]{1,64}$";
const CSV: &str = "text/csv;charset=UTF-8";
const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";
const XML: &str = "text/xml;charset=UTF-8";
const TEXT: &str = "text/plain;charset=UTF-8";
const SCRIPT: &str = "text/javascript;charset=UTF-8";
const FORM: &str = "application/x-www-form-urlencoded";

/// Schemas of answers, by name.
#[derive(Default)]
pub(super) struct Schemas(Vec<(String, RefOr<Schema>)>);

impl Schemas {
    /// Adds that of a struct, and those it is made of.
    pub(super) fn with<T: ToSchema>(mut self) -> Self {
        self.0.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.0);
        self
    }
}

/// The document.
pub(super) fn document(schemas: Schemas) -> Result<Value, HttpError> {
    let mut named = Map::new();
    for (name, schema) in schemas.0 {
        let schema = serde_json::to_value(schema).map_err(|e| HttpError::Inside(format!("a schema: {e}")))?;
        named.insert(name, schema);
    }
    named.insert(
        "Refusal".into(),
        json!({"type": "object", "required": ["status", "message"], "properties": {
            "status": {"type": "integer"}, "message": {"type": "string"}}}),
    );
    named.insert("Delivery".into(), delivery());
    named.insert("Delivered".into(), delivered());
    let mut paths = Map::new();
    for operation in operations() {
        let Operation { path, method, described } = with_common_headers(operation);
        let path = paths.entry(path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = path {
            methods.insert(method.into(), described);
        }
    }
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "profiled",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A visitor-profile store that speaks Adobe Target's profile APIs. The calls under /api/v1 are \
                            its own. A seq is a write's place in the one order of all writes, printed as a string. A slash at the \
                            end of a path of Adobe's means nothing.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": named,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description":
                "A token from `profiled token new`, which may have several scopes; none is asked for while there is none."}},
        },
        // Sites' calls take none, and neither does a daemon without tokens.
        "security": [{}, {"token": []}],
    }))
}

/// Describes the headers that each answer has, those of refusals, and, of a call that pages of other origins make, those
/// that browsers ask for.
fn with_common_headers(mut operation: Operation) -> Operation {
    const EVERY: [(&str, &str); 5] = [
        ("X-Request-Id", "The request's own, if it bore one, else a new one: the log has it."),
        ("Cache-Control", "Nobody keeps it."),
        ("Content-Security-Policy", "Shown as a page it may do nothing."),
        ("X-Content-Type-Options", "It is what Content-Type says."),
        ("Connection", "close, where it is the last answer on its connection."),
    ];
    const REFUSALS: [(&str, &str); 4] = [
        ("Retry-After", "With 429, 503 and 507: after how many seconds to try again."),
        ("WWW-Authenticate", "With 401: what is wrong with the token."),
        ("Allow", "With 405: the methods that it takes."),
        ("Accept-Encoding", "With 415: the encodings that it takes."),
    ];
    const PAGES: [(&str, &str); 5] = [
        ("Access-Control-Allow-Origin", "The page's origin, or *."),
        ("Access-Control-Allow-Credentials", "true, where it is the page's origin."),
        ("Access-Control-Expose-Headers", "What the page's script may read."),
        ("Cross-Origin-Resource-Policy", "Any page may load it."),
        ("Vary", "Origin, where it is the page's origin."),
    ];
    let responses = operation.described.get("responses").and_then(Value::as_object);
    let statuses: Vec<String> = responses.into_iter().flat_map(Map::keys).cloned().collect();
    let is_for_pages =
        ["/mbox", "/ubox", "/delivery", "/batchmbox"].iter().any(|door| operation.path.contains(door));
    for status in &statuses {
        let refusals = REFUSALS.iter().filter(|_| status == "default");
        let pages = PAGES.iter().filter(|_| is_for_pages);
        for (name, description) in EVERY.iter().chain(refusals).chain(pages) {
            operation.put_header(status, name, json!({"schema": text(), "description": description}));
        }
    }
    operation
}

/// One call.
struct Operation {
    path: &'static str,
    method: &'static str,
    described: Value,
}

impl Operation {
    /// A call of ours, which refuses in JSON.
    fn new(method: &'static str, path: &'static str, summary: &str) -> Self {
        let parameters: Vec<Value> = path.split(['{', '}']).skip(1).step_by(2).map(path_parameter).collect();
        let refused = "It is refused, and why. A token that is missing or lets nobody in is a 401; on Adobe's paths a 403.";
        let refusal = json!({"description": refused, "content": {
            JSON: {"schema": {"$ref": "#/components/schemas/Refusal"}}}});
        let described =
            json!({"summary": summary, "parameters": parameters, "responses": {"default": refusal}});
        Self { path, method, described }
    }

    /// It refuses in this form.
    fn refused_in(mut self, media_type: &str, schema: Value) -> Self {
        let content = json!({media_type: {"schema": schema}});
        self.put(&["responses", "default", "content"], content);
        self
    }

    /// A parameter of the query.
    fn query(mut self, name: &str, required: bool, schema: Value, description: &str) -> Self {
        let parameter = json!({"name": name, "in": "query", "required": required, "schema": schema,
                               "description": description});
        self.push_parameter(parameter);
        self
    }

    /// `client=`.
    fn client(self) -> Self {
        let schema = json!({"type": "string", "pattern": CLIENT});
        self.query(
            "client",
            true,
            schema,
            "Whose visitors. May be left out where a default client is configured.",
        )
    }

    /// `by=`.
    fn by(self) -> Self {
        let schema = json!({"type": "string", "enum": ["third-party", "pc", "ecid"]});
        self.query("by", false, schema, "What kind of id it is; third-party, unless another is named.")
    }

    /// A parameter `true` or `false`.
    fn switch(self, name: &str, description: &str) -> Self {
        self.query(name, false, json!({"type": "boolean"}), description)
    }

    /// A header of the request.
    fn header(mut self, name: &str, schema: Value, description: &str) -> Self {
        let parameter = json!({"name": name, "in": "header", "schema": schema, "description": description});
        self.push_parameter(parameter);
        self
    }

    /// A body that it takes.
    fn body(mut self, media_types: &[&str], schema: &Value, required: bool) -> Self {
        let media = media_types.iter().map(|it| ((*it).to_owned(), json!({"schema": schema})));
        let content: Map<String, Value> = media.collect();
        self.put(&["requestBody"], json!({"required": required, "content": content}));
        self
    }

    /// An answer, in any of these forms.
    fn answers(mut self, status: &'static str, description: &str, forms: &[(&str, Value)]) -> Self {
        let media = forms.iter().map(|(it, schema)| ((*it).to_owned(), json!({"schema": schema})));
        let content: Map<String, Value> = media.collect();
        self.put(&["responses", status], json!({"description": description, "content": content}));
        self
    }

    /// A header that this answer may bear, beyond those of [`with_common_headers`].
    fn tells(mut self, status: &'static str, name: &str, description: &str) -> Self {
        self.put_header(status, name, json!({"schema": text(), "description": description}));
        self
    }

    /// A site call in JSON.
    fn takes_60_mb(mut self) -> Self {
        let text = "The body has at most 62914560 bytes (60 MB), 413 beyond; one of more than 1 MiB takes a place, 503 if none is free.";
        self.put(&["description"], json!(text));
        self
    }

    /// The header of a call that goes on without something it brought.
    fn tells_what_is_left_out(self, statuses: &[&'static str]) -> Self {
        let told = "What the call went on without, and why, if there is anything.";
        statuses.iter().fold(self, |operation, status| operation.tells(status, "Profiled-Left-Out", told))
    }

    fn put_header(&mut self, status: &str, name: &str, header: Value) {
        let Some(answer) = self.described.pointer_mut(&format!("/responses/{status}")) else { return };
        let Value::Object(members) = answer else { return };
        if let Value::Object(headers) = members.entry("headers").or_insert_with(|| json!({})) {
            headers.insert(name.into(), header);
        }
    }

    /// An answer of this schema, in JSON.
    fn json(self, name: &str, description: &str) -> Self {
        self.answers("200", description, &[(JSON, named(name))])
    }

    fn push_parameter(&mut self, parameter: Value) {
        if let Some(Value::Array(parameters)) = self.described.get_mut("parameters") {
            parameters.push(parameter);
        }
    }

    fn put(&mut self, at: &[&'static str], value: Value) {
        let mut place = &mut self.described;
        for name in at {
            let Value::Object(members) = place else { return };
            place = members.entry(*name).or_insert(Value::Null);
        }
        *place = value;
    }
}

fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn path_parameter(name: &str) -> Value {
    let schema = match name {
        "client" => json!({"type": "string", "pattern": CLIENT}),
        "name" => json!({"type": "string", "minLength": 1, "maxLength": 128}),
        "kind" => text(),
        "session_id" => session_id(),
        _ => json!({"type": "string", "minLength": 1}),
    };
    json!({"name": name, "in": "path", "required": true, "schema": schema})
}

/// A call about one visitor, by an id of any kind.
fn visitor(method: &'static str, path: &'static str, summary: &str) -> Operation {
    let mut operation = Operation::new(method, path, summary);
    let id = json!({
        "name": "id", "in": "path", "required": true,
        "schema": {"type": "string", "pattern": format!("^[^+/.{CONTROL}]{{1,128}}$")},
        "description": "An id, in characters that are right whatever its kind; further ones are right for some.",
    });
    if let Some(Value::Array(parameters)) = operation.described.get_mut("parameters")
        && let Some(first) = parameters.first_mut()
    {
        *first = id;
    }
    operation.client().by()
}

fn batch(method: &'static str, path: &'static str, summary: &str) -> Operation {
    let mut operation = Operation::new(method, path, summary);
    let id = json!({"name": "id", "in": "path", "required": true,
                    "schema": {"type": "string", "pattern": BATCH_ID}, "description": "The batch's id."});
    operation.put(&["parameters"], json!([id]));
    operation
}

fn adobe_in_xml(method: &'static str, path: &'static str, summary: &str) -> Operation {
    Operation::new(method, path, summary).refused_in(XML, text())
}

/// Parameters that name attributes.
fn attributes(operation: Operation, required: bool) -> Operation {
    let mut operation = operation;
    operation.push_parameter(json!({
        "name": "attributes", "in": "query", "style": "form", "explode": true, "required": required,
        "description": "Attributes to write, each as profile.NAME=value.",
        "schema": {"type": "object", "minProperties": u8::from(required),
                   "patternProperties": {"^profile\\.[a-z]{1,20}$": {"type": "string", "maxLength": 100}},
                   "additionalProperties": false},
    }));
    operation
}

fn pc_id() -> Value {
    json!({"type": "string", "pattern": format!("^[^.{CONTROL}]{{1,128}}(\\.[0-9]+(_[0-9]+)?)?$")})
}

fn third_party_id() -> Value {
    json!({"type": "string", "pattern": format!("^[^+/{CONTROL}]{{1,256}}$")})
}

fn ecid() -> Value {
    json!({"type": "string", "pattern": format!("^[^{CONTROL}]{{1,128}}$")})
}

fn session_id() -> Value {
    json!({"type": "string", "pattern": format!("^[^ ?/{{}}{CONTROL}]{{1,128}}$")})
}

fn visitor_ids(operation: Operation) -> Operation {
    operation.query("mboxPC", false, pc_id(), "The visitor's pcId, perhaps with a location hint.").query(
        "mbox3rdPartyId",
        false,
        third_party_id(),
        "The visitor's thirdPartyId.",
    )
}

fn operations() -> Vec<Operation> {
    let mut all = vec![];
    adobe_batches(&mut all);
    adobe_visitors(&mut all);
    site(&mut all);
    profiles(&mut all);
    batches(&mut all);
    upkeep(&mut all);
    all
}

fn batch_file() -> Value {
    json!({
        "type": "string",
        "pattern": "^batch=(pcId|thirdPartyId),[a-z]{1,20}(\\n[A-Za-z0-9]{1,20},[A-Za-z0-9]{0,20}){1,20}\\n?$",
        "description": "Its first line is batch=pcId,name,… or batch=thirdPartyId,name,…, each further one a visitor. \
                        The pattern is the plainest form: cells may be quoted and form-encoded, and columns many. \
                        Of a form, percent-encoded from end to end, it is the field batch, and comes first.",
    })
}

fn adobe_batches(all: &mut Vec<Operation>) {
    for (path, summary) in [
        ("/m2/{client}/profile/batchUpdate", "Accepts a batch file (v1)."),
        ("/m2/{client}/v2/profile/batchUpdate", "Accepts a batch file (v2)."),
    ] {
        let operation = adobe_in_xml("post", path, summary)
            .switch("dryRun", "Only say what the batch would come to; nothing is written.")
            .query(
                "emptyValues",
                false,
                json!({"type": "string", "enum": ["ignore", "remove"]}),
                "Whether an empty value removes the attribute.",
            )
            .header(
                "Idempotency-Key",
                json!({"type": "string", "pattern": "^[!-~]{1,255}$"}),
                "The same key with the same body within 24 hours is no second batch: the first answer is given again.",
            )
            .body(&["text/csv", "text/plain", "application/octet-stream"], &batch_file(), true)
            .answers(
                "200",
                "It is durable and readable, and followed by the URL in batchStatus; or, of a dry run, what it would come \
                 to: in sum in JSON, row by row in the form that Accept names. With batch_reading = \"adobe\" also what \
                 Adobe refuses with a 200: success is false, batchStatus empty.",
                &[(XML, text()), (JSON, named("TriedOut")), (CSV, text()), (NDJSON, named("Row"))],
            )
            .tells("200", "Profiled-Seq", "The batch's place in the order of all writes.")
            .tells("200", "Idempotency-Replayed", "true: the batch was accepted when it was sent before.")
            .tells("200", "Content-Disposition", "Of a dry run row by row: the name to save it under.");
        all.push(operation);
    }
    for path in ["/m2/{client}/profile/batchStatus", "/m2/{client}/v2/profile/batchStatus"] {
        let operation = adobe_in_xml("get", path, "How far a batch is.")
            .query("batchId", true, json!({"type": "string", "pattern": BATCH_ID}), "Which batch.")
            .query(
                "showDetails",
                false,
                text(),
                "true: with the counts and, once it is complete, the first 1,000 rows that failed, each as \
                 <profile><id>…</id><status>failed</status></profile>, and a note on how to get all.",
            )
            .answers("200", "How far it is.", &[(XML, text())]);
        all.push(operation);
    }
}

fn adobe_visitors(all: &mut Vec<Operation>) {
    for method in ["get", "post"] {
        let path = "/m2/{client}/profile/update";
        let operation = visitor_ids(adobe_in_xml(method, path, "Writes to one visitor, if it is known."));
        let operation = attributes(operation, false)
            .answers("200", "It is taken.", &[(XML, text())])
            .tells("200", "Profiled-Outcome", "updated, not_found (nobody is made of it) or ignored.")
            .tells_what_is_left_out(&["200"]);
        all.push(if method == "post" {
            operation.body(&[FORM], &json!({"type": "object"}), false)
        } else {
            operation
        });
    }
    for path in [
        "/rest/v1/profiles/{id}",
        "/rest/v1/profiles/thirdPartyId/{id}",
        "/rest/v1/profiles/marketingCloudVisitorId/{id}",
    ] {
        all.push(Operation::new("get", path, "One visitor.").client().json("Fetched", "The visitor."));
    }
}

fn site(all: &mut Vec<Operation>) {
    for (path, kinds, refused_in) in [
        ("/m2/{client}/mbox/{kind}", json!(["json", "ajax", "standard"]), [JSON, SCRIPT]),
        ("/m2/{client}/ubox/{kind}", json!(["raw", "image", "page"]), [TEXT, TEXT]),
    ] {
        for method in ["get", "post"] {
            let summary = "A call from the site: creates the visitor, binds ids, writes attributes.";
            let is_ubox = path.contains("/ubox/");
            let mut operation = Operation::new(method, path, summary);
            let [first, second] = refused_in;
            let forms = json!({first: {"schema": {}}, second: {"schema": {}}, XML: {"schema": {}}});
            operation.put(&["responses", "default", "content"], forms);
            let client = path_parameter("client");
            let kind = json!({"name": "kind", "in": "path", "required": true,
                              "schema": {"type": "string", "enum": kinds}});
            operation.put(&["parameters"], json!([client, kind]));
            let operation = visitor_ids(operation)
                .query(
                    "mbox",
                    true,
                    json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,50}$"}),
                    "The mbox's name.",
                )
                .query("mboxSession", false, text(), "The session.")
                .query("mboxMCGVID", false, ecid(), "The visitor's ECID.")
                .query(
                    "mboxDefault",
                    is_ubox,
                    json!({"type": "string", "pattern": "^https?://[a-z]{1,20}/[a-z]{0,20}$"}),
                    "What a ubox call leads to, or answers with.",
                );
            let operation = attributes(operation, false)
                .answers(
                    "200",
                    "The default content.",
                    &[(JSON, json!({})), (SCRIPT, text()), (TEXT, text())],
                )
                .answers("302", "It leads to mboxDefault.", &[(TEXT, text())])
                .tells_what_is_left_out(&["200", "302"])
                .tells("302", "Location", "What mboxDefault says.")
                .tells("200", "Set-Cookie", "Of a ubox call: mboxPC.")
                .tells("302", "Set-Cookie", "Of a ubox call: mboxPC.");
            let form = json!({"type": "object"});
            all.push(if method == "post" { operation.body(&[FORM], &form, false) } else { operation });
        }
    }
    let mut delivery =
        Operation::new("post", "/rest/v1/delivery", "A call from the site, as Adobe's SDKs make it.")
            .client()
            .query("imsOrgId", false, text(), "The organisation, instead of client.")
            .query("sessionId", true, session_id(), "The session.")
            .body(&[JSON], &named("Delivery"), true)
            .json("Delivered", "Default content: none offered.");
    delivery.put(&["responses", "204"], json!({"description": "A beacon is taken."}));
    all.push(delivery.takes_60_mb().tells_what_is_left_out(&["200", "204"]));
    for path in ["/rest/v1/mbox", "/rest/v1/mbox/{session_id}"] {
        all.push(
            Operation::new("post", path, "One mbox, as older SDKs call it in JSON.")
                .client()
                .body(&[JSON], &rest_mbox(), true)
                .answers(
                    "200",
                    "Default content: an empty string.",
                    &[(
                        JSON,
                        json!({"type": "object", "required": ["tntId", "content", "sessionId"], "properties": {
                            "tntId": pc_id(), "thirdPartyId": third_party_id(), "marketingCloudVisitorId": ecid(),
                            "content": text(), "sessionId": text(), "edgeHost": text()}}),
                    )],
                )
                .takes_60_mb()
                .tells_what_is_left_out(&["200"]),
        );
    }
    all.push(
        Operation::new("post", "/rest/v2/batchmbox", "Several mboxes, as Adobe's mobile SDK 4 calls them.")
            .query(
                "client",
                false,
                json!({"type": "string", "pattern": CLIENT}),
                "Whose visitors. May be left out where the body's client, or an organisation, or a default says it.",
            )
            .query("imsOrgId", false, text(), "The organisation, instead of client.")
            .query("sessionId", false, session_id(), "The session.")
            .body(&[JSON], &batch_mbox(), true)
            .answers(
                "200",
                "Default content: empty strings.",
                &[(
                    JSON,
                    json!({"type": "object", "required": ["requestId", "client", "id", "contentAsJson"], "properties": {
                        "requestId": text(), "client": text(), "id": delivered_ids(), "edgeHost": text(),
                        "contentAsJson": {"type": "boolean"}, "mboxResponses": {"type": "array"},
                        "prefetchResponses": {"type": "array"}}}),
                )],
            )
                .takes_60_mb()
                .tells_what_is_left_out(&["200"]),
    );
}

fn profiles(all: &mut Vec<Operation>) {
    let path = "/api/v1/profiles/{id}";
    all.push(
        visitor("get", path, "A visitor: each attribute, who set it and when.")
            .query(
                "wait_for_seq",
                false,
                json!({"type": "string", "pattern": "^[0-9]{1,15}$"}),
                "Show it as of this write at the earliest, as Profiled-Seq told.",
            )
            .switch("lines", "With the line of the kept upload that set an attribute.")
            .json("Profile", "The visitor; its ETag is the seq of its last write.")
            .tells("200", "ETag", "The seq of its last write."),
    );
    all.push(
        visitor("delete", path, "Erases a visitor, with all its ids.")
            .json("Erased", "It is gone for every reader."),
    );
    all.push(
        visitor("delete", "/api/v1/profiles/{id}/attributes/{name}", "Removes an attribute.")
            .json("Removed", "It is gone."),
    );
    all.push(
        Operation::new("get", "/api/v1/statistics", "What a client has.")
            .client()
            .json("Statistics", "That."),
    );
    all.push(
        Operation::new("get", "/api/v1/export", "All visitors of a client.")
            .client()
            .query("format", true, json!({"type": "string", "enum": ["ndjson", "csv"]}), "In which form.")
            .query(
                "by",
                false,
                json!({"type": "string", "enum": ["third-party", "pc"]}),
                "csv: the rows' key.",
            )
            .switch("defuse", "csv: percent-encode what a spreadsheet would run as a formula.")
            .answers("200", "Them, in chunks.", &[(NDJSON, named("Profile")), (CSV, text())])
            .tells("200", "Profiled-Left-Out", "csv: how many visitors have no id of the kind that by names.")
            .tells("200", "Content-Disposition", "The name to save it under."),
    );
}

fn batches(all: &mut Vec<Operation>) {
    let states = json!({"type": "string", "enum": ["incomplete", "complete", "stuck"]});
    all.push(
        Operation::new("get", "/api/v1/batches", "A client's batches, newest first.")
            .client()
            .query("status", false, states, "Only those.")
            .query(
                "limit",
                false,
                json!({"type": "integer", "minimum": 1, "maximum": 1000}),
                "How many at most.",
            )
            .query(
                "before",
                false,
                json!({"type": "string", "pattern": "^[0-9]{1,19}$"}),
                "Go on from there: Link leads here.",
            )
            .json("Batches", "Them; Link leads to the next page.")
            .tells("200", "Link", "The next page, rel=next, if there is one."),
    );
    all.push(batch("get", "/api/v1/batches/{id}", "A batch.").json("Batch", "It, with counts and speed."));
    let summary = "Gives up a batch that is stuck because its upload is damaged: its rows count as failed.";
    all.push(batch("delete", "/api/v1/batches/{id}", summary).json("Batch", "It, complete."));
    let event = json!({"type": "object", "properties": {
        "event": {"type": "string", "enum": ["progress", "complete"]}, "data": {"type": "string"}}});
    all.push(
        batch("get", "/api/v1/batches/{id}/events", "How far it is, as it goes: progress, then complete.")
            .answers(
                "200",
                "Server-sent events whose data is a batch in JSON.",
                &[("text/event-stream", event)],
            ),
    );
    let outcomes =
        json!({"type": "string", "enum": ["updated", "created", "not_found", "ignored", "failed"]});
    all.push(
        batch("get", "/api/v1/batches/{id}/outcomes", "What became of each row. Shows visitors' ids.")
            .query("outcome", false, outcomes, "Only those.")
            .query(
                "limit",
                false,
                json!({"type": "integer", "minimum": 1, "maximum": 10_000}),
                "A page of so many rows at most; all of them, where it is left out.",
            )
            .query(
                "from",
                false,
                json!({"type": "string", "pattern": "^[0-9]{1,8}\\.[0-9]{1,8}$"}),
                "Go on from there: Link leads here.",
            )
            .answers("200", "Every row has one.", &[(CSV, text()), (NDJSON, named("Row"))])
            .tells("200", "Link", "The next page, rel=next, if there is one.")
            .tells("200", "Content-Disposition", "The name to save it under."),
    );
    all.push(
        batch(
            "get",
            "/api/v1/batches/{id}/repair",
            "The failed rows as sent, with a header. Shows visitors' values.",
        )
        .answers("200", "A batch file, to be mended and posted again.", &[(CSV, text())])
        .tells("200", "Content-Disposition", "The name to save it under."),
    );
    all.push(
        batch("get", "/api/v1/batches/{id}/file", "The file as sent. Shows visitors' values.")
            .answers("200", "It; rows of visitors that were erased since read `erased`.", &[(CSV, text())])
            .tells("200", "Content-Disposition", "The name to save it under."),
    );
    let summary = "Sends the file again of a batch that is stuck because its upload is damaged.";
    all.push(
        batch("post", "/api/v1/batches/{id}/file", summary)
            .body(&["text/csv", "text/plain", "application/octet-stream"], &batch_file(), true)
            .json("Batch", "It goes on: this was its file."),
    );
}

fn upkeep(all: &mut Vec<Operation>) {
    let nothing = json!({"type": "object", "additionalProperties": false});
    all.push(
        Operation::new("post", "/api/v1/compact", "Makes a fresh store.")
            .body(&[JSON], &nothing, true)
            .json("Compacted", "It is in use."),
    );
    let folder = json!({"type": "object", "required": ["folder"], "additionalProperties": false,
                        "properties": {"folder": {"type": "string", "description": "On the daemon's machine."}}});
    all.push(
        Operation::new("post", "/api/v1/backup", "Writes a backup.")
            .body(&[JSON], &folder, true)
            .json("BackedUp", "It is written."),
    );
    for (path, summary) in [("/healthz", "Whether the process runs."), ("/readyz", "Whether it serves.")] {
        all.push(Operation::new("get", path, summary).answers("200", "It does.", &[(TEXT, text())]));
    }
    let metrics = crate::telemetry::metrics::MEDIA_TYPE;
    all.push(Operation::new("get", "/metrics", "What was counted.").answers(
        "200",
        "OpenMetrics.",
        &[(metrics, text())],
    ));
    all.push(Operation::new("get", "/openapi.json", "This document.").answers(
        "200",
        "It.",
        &[(JSON, json!({"type": "object"}))],
    ));
}

/// A Delivery call, as far as it is read; other members of Adobe's document may hold anything.
fn delivery() -> Value {
    let parameters = profile_parameters();
    let place = json!({"type": "object", "properties": {"profileParameters": parameters}});
    let mboxes = json!({"type": "array", "items": {"type": "object", "required": ["name"], "properties": {
        "index": {"type": "integer", "minimum": 0, "maximum": 1000}, "name": {"type": "string"},
        "profileParameters": parameters}}});
    json!({"type": "object", "properties": {
        "requestId": {"type": "string"},
        "id": {"type": "object", "properties": {
            "tntId": pc_id(), "thirdPartyId": third_party_id(), "marketingCloudVisitorId": ecid()}},
        "context": {"type": "object", "properties": {"beacon": {"type": "boolean"}}},
        "execute": {"type": "object", "properties": {"pageLoad": place, "mboxes": mboxes}},
        "prefetch": {"type": "object", "properties": {"pageLoad": place, "mboxes": mboxes}},
        "notifications": {"type": "array", "items": {"type": "object", "required": ["id"], "properties": {
            "id": {"type": "string"}, "profileParameters": parameters}}},
    }})
}

/// What a map of `profileParameters` holds.
fn profile_parameters() -> Value {
    json!({"type": "object", "maxProperties": 50, "additionalProperties": false,
           "patternProperties": {"^[a-z]{1,20}$": {"type": "string", "maxLength": 100}}})
}

/// A call of the older mbox call in JSON, as far as it is read.
fn rest_mbox() -> Value {
    json!({"type": "object", "required": ["mbox"], "properties": {
        "mbox": text(), "tntId": pc_id(), "thirdPartyId": third_party_id(), "marketingCloudVisitorId": ecid(),
        "profileParameters": profile_parameters(), "mboxParameters": {"type": "object", "maxProperties": 0}}})
}

/// A call of several mboxes, as far as it is read.
fn batch_mbox() -> Value {
    let mboxes = json!({"type": "array", "maxItems": 50, "items": {"type": "object", "required": ["mbox"], "properties": {
        "indexId": {"type": "integer", "minimum": 0, "maximum": 1000}, "mbox": text(),
        "parameters": {"type": "object", "maxProperties": 0}}}});
    json!({"type": "object", "properties": {
        "client": {"type": "string", "pattern": CLIENT},
        "id": {"type": "object", "properties": {
            "tntId": pc_id(), "thirdPartyId": third_party_id(), "marketingCloudVisitorId": ecid()}},
        "contentAsJson": {"type": "boolean"}, "profileParameters": profile_parameters(),
        "mboxes": mboxes, "prefetch": mboxes}})
}

/// The ids of an answer: strings and nothing else, and the tntId always.
fn delivered_ids() -> Value {
    json!({"type": "object", "required": ["tntId"], "additionalProperties": false, "properties": {
        "tntId": pc_id(), "thirdPartyId": third_party_id(), "marketingCloudVisitorId": ecid()}})
}

fn delivered() -> Value {
    json!({"type": "object", "required": ["status", "requestId", "client", "id"], "properties": {
        "status": {"type": "integer"}, "requestId": {"type": "string"}, "client": {"type": "string"},
        "id": delivered_ids(), "edgeHost": {"type": "string"}, "execute": {"type": "object"},
        "prefetch": {"type": "object"}, "notifications": {"type": "array"},
    }})
}
