//! Runs that are killed, and many nodes at once, on one server: what `tests/target` does with
//! directories.

use crate::loopback;
use crate::node::{Dice, Node, publish_at_once};
use crate::servers::{self, ACCESS_KEY, BUCKET, NGINX_DAV, SECRET_KEY};

const MOMENTS: u64 = 40;
const NODES: usize = 254;
const BYTES: usize = 100_000;

#[test]
fn a_kill_at_any_moment_costs_nothing_on_a_server() {
    const NAME: &str = "a_kill_at_any_moment_costs_nothing_on_a_server";
    if servers::lacks(NAME, &["s3s-fs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = servers::s3s(dir.path());
    let lines = format!(
        "target = \"s3://{BUCKET}/site\"\n[target_options]\nendpoint = \"{}\"\n\
         [target_options.login]\naccess_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n",
        server.url()
    );
    let node = Node::at(dir.path(), &lines, "node001");
    // Generations come and go all the time.
    node.configure("[backup]\nkeep_last = 2\n");
    node.backed_up();
    let micros = node.backed_up_within(BYTES);
    node.survives_kills(Dice::new(NAME), MOMENTS, 8, |_| (BYTES, micros));
}

#[test]
fn nodes_that_publish_at_once_to_a_server_do_not_harm_each_other() {
    if servers::lacks("nodes_that_publish_at_once_to_a_server", &["nginx"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // It has no conditional PUT, as the two for S3 have: nothing keeps the nodes apart but their names.
    let (port, listen) = loopback();
    let server = servers::nginx(dir.path(), port, &listen, NGINX_DAV);
    let lines = format!("target = \"{}/site\"\n", server.url());
    let name = |number| format!("node{number:03}");
    let nodes: Vec<Node> =
        (1..=NODES).map(|number| Node::at(dir.path(), &lines, &name(number))).collect();
    nodes.iter().for_each(|node| node.configure("[backup]\nthreads = 1\n"));
    publish_at_once(&nodes);
}
