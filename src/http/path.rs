//! The paths of endpoints: templates such as `/api/v1/batches/{id}`, and the values of their parameters in a request.
//!
//! Promises: segments are decoded before they are compared, so `batch%55pdate` is `batchUpdate`. A match allocates nothing.

/// The path of an endpoint, in parts.
#[derive(Debug)]
pub(super) struct Template {
    text: &'static str,
    segments: Vec<Segment>,
}

/// One part of a template, between two slashes.
#[derive(Debug)]
enum Segment {
    /// This text and no other.
    Literal(&'static str),
    /// `{name}`: any text, also an empty one. `{name+}`: any text that is not empty.
    Any { name: &'static str, may_be_empty: bool },
    /// `{name=a|b}`: one of these.
    OneOf { name: &'static str, values: &'static str },
}

impl Template {
    /// Reads a template: a slash before each part.
    pub(super) fn new(text: &'static str) -> Self {
        let parts = text.strip_prefix('/').unwrap_or(text).split('/');
        Self { text, segments: parts.map(Segment::new).collect() }
    }

    /// The template, as its endpoints wrote it.
    pub(super) fn text(&self) -> &'static str {
        self.text
    }

    /// How many parts it has.
    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether a request's path, split into parts, matches this template.
    pub(super) fn matches(&self, path: &[&str]) -> bool {
        self.segments.len() == path.len()
            && self.segments.iter().zip(path).all(|(segment, text)| segment.matches(text))
    }

    /// The template as OpenAPI writes it.
    pub(super) fn in_openapi(&self) -> String {
        let part = |segment: &Segment| match segment {
            Segment::Literal(text) => format!("/{text}"),
            Segment::Any { name, .. } | Segment::OneOf { name, .. } => format!("/{{{name}}}"),
        };
        self.segments.iter().map(part).collect()
    }

    /// The names of its parameters, each with the values that it may have, where those are listed.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'static str, Option<Vec<&'static str>>)> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Any { name, .. } => Some((*name, None)),
            Segment::OneOf { name, values } => Some((*name, Some(values.split('|').collect()))),
        })
    }
}

impl Segment {
    fn new(text: &'static str) -> Self {
        let Some(parameter) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            return Self::Literal(text);
        };
        match (parameter.split_once('='), parameter.strip_suffix('+')) {
            (Some((name, values)), _) => Self::OneOf { name, values },
            (None, Some(name)) => Self::Any { name, may_be_empty: false },
            (None, None) => Self::Any { name: parameter, may_be_empty: true },
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => *literal == text,
            Self::Any { may_be_empty, .. } => *may_be_empty || !text.is_empty(),
            Self::OneOf { values, .. } => values.split('|').any(|value| value == text),
        }
    }

    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Literal(_) => None,
            Self::Any { name, .. } | Self::OneOf { name, .. } => Some(name),
        }
    }
}

/// The path of a request, and the template that it matches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'a> {
    template: &'a Template,
    segments: &'a [&'a str],
}

impl<'a> Path<'a> {
    /// A path that matches `template`.
    pub(super) fn new(template: &'a Template, segments: &'a [&'a str]) -> Self {
        Self { template, segments }
    }

    /// The value of a parameter. Empty if the template has no such parameter.
    pub(super) fn get(&self, name: &str) -> &'a str {
        let at = self.template.segments.iter().position(|segment| segment.name() == Some(name));
        at.and_then(|at| self.segments.get(at)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_matches_its_paths_and_no_others() {
        let check = |template: &'static str, path: &str, expected: Option<&[(&str, &str)]>| {
            let template = Template::new(template);
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            assert_eq!(template.matches(&segments), expected.is_some(), "{} {path}", template.text());
            let path = Path::new(&template, &segments);
            for (name, value) in expected.into_iter().flatten() {
                assert_eq!(path.get(name), *value, "{}", template.text());
            }
        };
        check("/a/{id}", "/a/7", Some(&[("id", "7"), ("other", "")]));
        check("/a/{id}", "/a/", Some(&[("id", "")]));
        check("/a/{id}", "/a", None);
        check("/a/{id}", "/a/7/", None);
        check("/a/{id+}", "/a/", None);
        check("/a/{id+}", "/a/7", Some(&[("id", "7")]));
        check(
            "/{client}/mbox/{kind=json|ajax}",
            "/demo/mbox/ajax",
            Some(&[("client", "demo"), ("kind", "ajax")]),
        );
        check("/{client}/mbox/{kind=json|ajax}", "/demo/mbox/json|ajax", None);
        check("/{client}/mbox/{kind=json|ajax}", "/demo/mbox/", None);
        check("/", "/", Some(&[]));
    }

    #[test]
    fn openapi_shows_only_the_names_of_parameters() {
        let template = Template::new("/m2/{client}/mbox/{kind=json|ajax}/{id+}");
        assert_eq!(template.in_openapi(), "/m2/{client}/mbox/{kind}/{id}");
        let parameters: Vec<_> = template.parameters().collect();
        assert_eq!(parameters, [("client", None), ("kind", Some(vec!["json", "ajax"])), ("id", None)]);
    }
}
