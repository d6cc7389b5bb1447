//! `shoal node ls|rm`.

use serde_json::json;
use shoal_client::NodeStatus;

use crate::command::Context;
use crate::failure::Failure;
use crate::output;
use crate::status::nodes_table;

pub(crate) async fn list(context: &Context) -> Result<(), Failure> {
    let nodes = context.client.status().await?.nodes;
    output::print(context.format, || nodes_table(&nodes), || json!({ "nodes": nodes }))
}

pub(crate) async fn remove(context: &Context, called: &str) -> Result<(), Failure> {
    let nodes = context.client.status().await?.nodes;
    // By its number from here on, which no other node ever gets.
    let node = node_called(&nodes, called)?;
    context.client.remove_node(node.id).await?;
    let (id, name) = (node.id, &node.name);
    output::print(context.format, || format!("removed node {id} ({name})\n"), || json!({ "removed": id, "name": name }))
}

/// The node of that number or, if there is none, of that name.
fn node_called<'a>(nodes: &'a [NodeStatus], called: &str) -> Result<&'a NodeStatus, Failure> {
    let number = called.parse().ok();
    if let Some(node) = nodes.iter().find(|node| Some(node.id) == number) {
        return Ok(node);
    }
    let named: Vec<&NodeStatus> = nodes.iter().filter(|node| node.name == called).collect();
    match named[..] {
        [node] => Ok(node),
        [] => Err(Failure::new(format!("no node has the number or name {called:?}")).next("shoal node ls")),
        _ => {
            let numbers: Vec<String> = named.iter().map(|node| node.id.to_string()).collect();
            let problem = format!("several nodes have the name {called:?}: {}", numbers.join(", "));
            Err(Failure::new(problem).next("shoal node rm NUMBER"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_by_number_or_name() {
        let node = |id, name: &str| NodeStatus {
            id,
            name: name.to_owned(),
            address: String::new(),
            zone: String::new(),
            alive: false,
            silent_ms: None,
            replicas: 0,
            disk_bytes: None,
            awaited: false,
            disk_free_bytes: None,
            has_room: true,
        };
        let nodes = [node(1, "node-1"), node(2, "1"), node(3, "twin"), node(4, "twin"), node(5, "55")];
        for (called, want) in [
            ("1", Ok(1)),
            ("node-1", Ok(1)),
            ("55", Ok(5)),
            ("twin", Err("several nodes have the name \"twin\": 3, 4")),
            ("6", Err("no node has the number or name \"6\"")),
        ] {
            let found = node_called(&nodes, called).map(|node| node.id).map_err(|failure| failure.message);
            assert_eq!(found, want.map_err(str::to_owned), "{called}");
        }
    }
}
