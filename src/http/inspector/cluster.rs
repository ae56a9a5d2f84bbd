//! `/cluster`: how the nodes of an order are, as the node knows it that is asked.

use askama::Template;
use hyper::StatusCode;

use super::page::{Frame, render};
use super::refusal::PAGES;
use super::words::{grouped, lasting, size};
use crate::cluster::{ClusterStatus, NodeStatus};
use crate::http::auth::Access;
use crate::http::endpoint::{Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::tokens::Scope;

#[derive(Template)]
#[template(path = "cluster.html")]
struct Page {
    frame: Frame,
    node: String,
    cluster: String,
    low: String,
    end: String,
    serving: usize,
    nodes: Vec<ShownNode>,
    warnings: Vec<String>,
}

/// A node as it is shown.
struct ShownNode {
    name: String,
    address: String,
    version: String,
    state: &'static str,
    /// How its state is marked: as a batch's is.
    mark: &'static str,
    behind: String,
    behind_by: Option<String>,
    applied: String,
    snapshot: String,
    disk_free: String,
    reported: String,
}

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/cluster",
    name: "inspector_cluster",
    api: PAGES,
    access: Access::Everywhere(Scope::Read),
    client: Whose::Nobody,
    limits: CallLimits::NONE,
    handler: |call| Box::pin(async move { answer(&call) }),
    describe: None,
}];

fn answer(call: &Call<'_>) -> Reply {
    let Some(members) = &call.front.members else {
        return Err(HttpError::NotFound("this daemon is a single one, and no node of several".into()));
    };
    let status = members.status();
    let client = call.query()?.get("client").and_then(|code| crate::http::request::client(code).ok());
    let frame = Frame::of(call.front, call.request, client.as_ref(), "Cluster");
    let warnings = warnings(&status);
    let page = Page {
        frame,
        node: status.node,
        cluster: status.cluster,
        low: grouped(status.order.0),
        end: grouped(status.order.1),
        serving: status.nodes.iter().filter(|node| node.state == "serving").count(),
        nodes: status.nodes.iter().map(ShownNode::of).collect(),
        warnings,
    };
    render(StatusCode::OK, &page)
}

/// What an operator should look at.
fn warnings(status: &ClusterStatus) -> Vec<String> {
    let mut warnings = vec![];
    for NodeStatus { name, diverged, settings_differ, state, reported, .. } in &status.nodes {
        if *state == "away" {
            warnings.push(format!("Node {name} has not reported for {}.", lasting(*reported)));
        }
        if *diverged {
            warnings.push(format!(
                "Node {name} has decided otherwise than node {}: one of them has diverged, and its log says so.",
                status.node
            ));
        }
        if *settings_differ {
            warnings.push(format!(
                "Node {name} has other settings that shape outcomes than node {}: the same call has another outcome there.",
                status.node
            ));
        }
    }
    warnings.extend(status.faults.iter().cloned());
    warnings
}

impl ShownNode {
    fn of(node: &NodeStatus) -> Self {
        let records =
            |count: u64| format!("{} {}", grouped(count), if count == 1 { "record" } else { "records" });
        Self {
            name: node.name.clone(),
            address: node.address.clone(),
            version: node.version.clone(),
            state: node.state,
            mark: match node.state {
                "serving" => "complete",
                "starting" | "behind" | "stopped" => "incomplete",
                _ => "stuck",
            },
            behind: if node.behind_records == 0 { "level".into() } else { records(node.behind_records) },
            behind_by: node.behind.filter(|_| node.behind_records > 0).map(lasting),
            applied: grouped(node.applied),
            snapshot: if node.snapshot == 0 {
                "none yet".into()
            } else {
                format!("up to {}", grouped(node.snapshot))
            },
            disk_free: if node.disk_free == 0 { "not known yet".into() } else { size(node.disk_free) },
            reported: lasting(node.reported),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_wrong_with_a_node_is_said() {
        let node = |name: &str, state| NodeStatus {
            name: name.into(),
            address: "http://10.0.0.7:8750".into(),
            version: "1".into(),
            state,
            applied: 7,
            behind_records: 1,
            behind: Some(Duration::from_secs(61)),
            snapshot: 0,
            disk_free: 1 << 30,
            settings_differ: state == "serving",
            diverged: state == "standing",
            reported: Duration::from_millis(700),
        };
        let nodes = vec![node("a", "serving"), node("b", "standing"), node("c", "away")];
        let faults = vec!["a topic".to_owned()];
        let (order, files) = ((0, 8), (0, 0));
        let status = ClusterStatus { node: "a".into(), cluster: "1".into(), order, files, nodes, faults };
        let said = warnings(&status);
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said.iter().any(|line| line == "Node c has not reported for 700 ms."), "{said:?}");
        let shown: Vec<_> = status.nodes.iter().map(ShownNode::of).collect();
        assert_eq!(shown.iter().map(|node| node.mark).collect::<Vec<_>>(), ["complete", "stuck", "stuck"]);
        let first = shown.first().unwrap();
        assert_eq!((first.behind.as_str(), first.behind_by.as_deref()), ("1 record", Some("61 s")));
        assert_eq!(lasting(Duration::from_secs(7_300)), "2 h");
    }
}
