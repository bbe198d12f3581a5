//! Runs that are killed, and many nodes at once, on one server: what `tests/target` does with
//! directories.

use std::time::{Duration, Instant};

use crate::loopback;
use crate::node::{Dice, Node, start};
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
    node.change(1, BYTES);
    let started = Instant::now();
    let mut last = node.backed_up();
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap();
    let (mut dice, mut killed) = (Dice::new(NAME), 0);
    for moment in 0..MOMENTS {
        node.change(2 + moment, BYTES);
        let mut child = start(&node.backup());
        std::thread::sleep(Duration::from_micros(dice.below(micros * 5 / 4)));
        child.kill().unwrap();
        killed += u64::from(!child.wait().unwrap().success());
        let generations = node.verify();
        assert!(generations.last() >= Some(&last), "{generations:?} without {last}");
        if moment % 8 == 7 {
            last = node.backed_up();
            node.comes_back();
            node.nothing_is_left_over();
        } else {
            last.clone_from(generations.last().unwrap());
        }
    }
    assert!(killed > MOMENTS / 4, "only {killed} runs were killed before they had ended");
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
    let mut running: Vec<_> = nodes
        .iter()
        .map(|node| {
            node.configure("[backup]\nthreads = 1\n");
            start(&node.backup())
        })
        .collect();
    for (node, child) in nodes.iter().zip(&mut running) {
        assert!(child.wait().unwrap().success(), "{}", node.name);
    }
    for node in &nodes {
        assert_eq!(node.verify().len(), 1);
        node.comes_back();
        node.nothing_is_left_over();
    }
}
