//! The description of one call, for the OpenAPI document: written beside the call's handler, in the library's own types.
//!
//! A description says what the call is for, what it takes beyond the parameters of its path, and what it answers. What its
//! `Endpoint` says of it (who may call, the limits, the form of refusals) is added from there.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{
    Operation as Described, Parameter, ParameterBuilder, ParameterIn, ParameterStyle,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, HeaderBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Schema};

use super::response::JSON;
use super::shapes;

/// The schemas that a description refers to, by name.
pub(super) type Schemas = BTreeMap<String, RefOr<Schema>>;

/// The description of a call.
pub(super) struct Operation {
    method: Method,
    described: Described,
    schemas: Schemas,
    /// The statuses of refusals that do not follow from the declaration.
    refusals: Vec<&'static str>,
}

/// A word that begins with a capital.
pub(super) fn initial(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

/// A form in which something is sent: its media type, and its shape.
pub(super) struct Form {
    media_type: &'static str,
    schema: RefOr<Schema>,
    schemas: Vec<(String, RefOr<Schema>)>,
    example: Option<Value>,
}

/// A form of this shape.
pub(super) fn form(media_type: &'static str, schema: Schema) -> Form {
    Form { media_type, schema: schema.into(), schemas: vec![], example: None }
}

/// A form that the derives of `T` describe.
pub(super) fn form_of<T: ToSchema>(media_type: &'static str) -> Form {
    let mut schemas = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    let schema = Ref::from_schema_name(T::name().into_owned()).into();
    Form { media_type, schema, schemas, example: None }
}

impl Form {
    /// An example of what is sent so.
    pub(super) fn example(mut self, example: impl Into<Value>) -> Self {
        self.example = Some(example.into());
        self
    }

    fn content(self, schemas: &mut Schemas) -> (String, RefOr<Content>) {
        schemas.extend(self.schemas);
        let content = ContentBuilder::new().schema(Some(self.schema)).example(self.example);
        (self.media_type.to_owned(), content.into())
    }
}

impl Operation {
    /// A description to begin with, of a call by this method.
    pub(super) fn new(method: Method) -> Self {
        Self { method, described: Described::new(), schemas: Schemas::new(), refusals: vec![] }
    }

    /// Its name in generated clients, where the one that follows from its path would not be good.
    pub(super) fn id(mut self, id: &str) -> Self {
        self.described.operation_id = Some(id.to_owned());
        self
    }

    /// Completes its name: as given, by method where there are several; else `otherwise`. And the group that it is in.
    pub(super) fn named_in(mut self, several: bool, otherwise: String, group: &str) -> Self {
        let method = self.method.as_str().to_ascii_lowercase();
        let id = match self.described.operation_id.take() {
            Some(id) if several => format!("{id}By{}", initial(&method)),
            Some(id) => id,
            None => otherwise,
        };
        self.described.operation_id = Some(id);
        self.described.tags = Some(vec![group.to_owned()]);
        self
    }

    /// What the call is for.
    pub(super) fn summary(mut self, summary: &str) -> Self {
        self.described.summary = Some(summary.to_owned());
        self
    }

    /// A sentence more.
    pub(super) fn says(mut self, sentence: &str) -> Self {
        let said = self.described.description.get_or_insert_default();
        if !said.is_empty() {
            said.push(' ');
        }
        said.push_str(sentence);
        self
    }

    /// A parameter of the path. One of the same name that is there already is replaced.
    pub(super) fn path(self, name: &str, schema: Schema, description: Option<&str>) -> Self {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path);
        self.parameter(parameter.required(Required::True).schema(Some(schema)).description(description))
    }

    /// A parameter of the query.
    pub(super) fn query(self, name: &str, required: bool, schema: Schema, description: &str) -> Self {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
        let required = if required { Required::True } else { Required::False };
        self.parameter(parameter.required(required).schema(Some(schema)).description(Some(description)))
    }

    /// `client=`, where the call is about the visitors of one client.
    pub(super) fn client(self) -> Self {
        let what = "The client. Leave it out if there is a default client.";
        self.query("client", true, shapes::client(), what)
    }

    /// `true` or `false`.
    pub(super) fn switch(self, name: &str, description: &str) -> Self {
        self.query(name, false, shapes::switch(), description)
    }

    /// Parameters of the query that name attributes.
    pub(super) fn attributes(self) -> Self {
        let parameter = ParameterBuilder::new()
            .name("attributes")
            .parameter_in(ParameterIn::Query)
            .style(Some(ParameterStyle::Form))
            .explode(Some(true))
            .required(Required::False)
            .description(Some("Attributes to write, each as profile.NAME=value."))
            .schema(Some(shapes::attributes(None, "^profile\\.[a-z]{1,20}$")));
        self.parameter(parameter)
    }

    /// A header of the request.
    pub(super) fn header(self, name: &str, schema: Schema, description: &str) -> Self {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
        self.parameter(
            parameter.required(Required::False).schema(Some(schema)).description(Some(description)),
        )
    }

    fn parameter(mut self, parameter: ParameterBuilder) -> Self {
        let parameter = RefOr::T(parameter.build());
        let parameters = self.described.parameters.get_or_insert_default();
        let same = |other: &&mut RefOr<Parameter>| match (&**other, &parameter) {
            (RefOr::T(other), RefOr::T(new)) => {
                other.name == new.name && other.parameter_in == new.parameter_in
            }
            _ => false,
        };
        match parameters.iter_mut().find(same) {
            Some(other) => *other = parameter,
            None => parameters.push(parameter),
        }
        self
    }

    /// A body that it must have, in any of these forms.
    pub(super) fn body(self, forms: impl IntoIterator<Item = Form>) -> Self {
        self.with_body(Required::True, forms)
    }

    /// Parameters that may stand in a body, if it is sent by POST.
    pub(super) fn form_by_post(self, media_type: &'static str) -> Self {
        if self.method == Method::POST {
            self.with_body(Required::False, [form(media_type, shapes::object())])
        } else {
            self
        }
    }

    fn with_body(mut self, required: Required, forms: impl IntoIterator<Item = Form>) -> Self {
        let mut body = RequestBodyBuilder::new().required(Some(required)).build();
        body.content = forms.into_iter().map(|form| form.content(&mut self.schemas)).collect();
        self.described.request_body = Some(RefOr::T(body));
        self
    }

    /// An answer, in any of these forms.
    pub(super) fn answers(
        mut self,
        status: &str,
        description: &str,
        forms: impl IntoIterator<Item = Form>,
    ) -> Self {
        let mut response = ResponseBuilder::new().description(description).build();
        response.content = forms.into_iter().map(|form| form.content(&mut self.schemas)).collect();
        self.described.responses.responses.insert(status.to_owned(), RefOr::T(response));
        self
    }

    /// An answer in JSON that the derives of `T` describe.
    pub(super) fn json<T: ToSchema>(self, description: &str) -> Self {
        self.answers("200", description, [form_of::<T>(JSON)])
    }

    /// The forms of refusals, where they are others than those of its API.
    pub(super) fn refuses(self, forms: impl IntoIterator<Item = Form>) -> Self {
        let refused = "The call is refused; the body says why. A token that is missing or wrong is a 401; on Adobe's paths a 403.";
        self.answers("default", refused, forms)
    }

    /// Whether it says already in which forms it refuses.
    pub(super) fn has_refusals(&self) -> bool {
        self.described.responses.responses.contains_key("default")
    }

    /// A refusal that the call has beyond those that follow from its declaration.
    pub(super) fn refusal(mut self, status: &'static str) -> Self {
        self.refusals.push(status);
        self
    }

    /// The statuses of those.
    pub(super) fn refusals(&self) -> &[&'static str] {
        &self.refusals
    }

    /// The method of the call.
    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// A header that an answer may bear, beyond those that all answers bear.
    pub(super) fn bears(mut self, status: &str, name: &str, description: &str) -> Self {
        let answer = self.described.responses.responses.get_mut(status);
        if let Some(RefOr::T(Response { headers, .. })) = answer {
            let header = HeaderBuilder::new().schema(Some(shapes::text())).description(Some(description));
            headers.insert(name.to_owned(), RefOr::T(header.build()));
        }
        self
    }

    /// Adds an answer that other calls give, too: one of the document's.
    pub(super) fn answers_as(mut self, status: &str, name: &str) -> Self {
        let answer = RefOr::Ref(Ref::from_response_name(name));
        self.described.responses.responses.insert(status.to_owned(), answer);
        self
    }

    /// The statuses of its answers; `default` are refusals.
    pub(super) fn statuses(&self) -> Vec<String> {
        self.described.responses.responses.keys().cloned().collect()
    }

    /// The header of a call that goes on without something it brought.
    pub(super) fn bears_left_out(self, statuses: &[&str]) -> Self {
        let what = "What the call left out, and why.";
        statuses.iter().fold(self, |operation, status| operation.bears(status, "Profiled-Left-Out", what))
    }

    /// The header of a call that writes.
    pub(super) fn bears_seq(self, statuses: &[&str]) -> Self {
        let what = "The write's place in the order of all writes. A call that changed nothing has none.";
        statuses.iter().fold(self, |operation, status| operation.bears(status, "Profiled-Seq", what))
    }

    /// What it takes to be let in: nothing, or one of these.
    pub(super) fn security(mut self, requirement: Option<SecurityRequirement>) -> Self {
        // A daemon without tokens asks for none.
        self.described.security =
            Some([Some(SecurityRequirement::default()), requirement].into_iter().flatten().collect());
        self
    }

    /// The description itself, and the schemas that it refers to.
    pub(super) fn into_parts(self) -> (Described, Schemas) {
        (self.described, self.schemas)
    }
}
