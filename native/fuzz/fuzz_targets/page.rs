//! Any bytes as a page: damage is an error, and what is read keeps the rules of section 9.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pvback_core::Result;
use pvback_core::tree::node_page::NodePage;
use pvback_core::tree::page::{PageType, parse_extent_inner, parse_extents, parse_inner};
use pvback_core::tree::{Node, key, page};

fuzz_target!(|bytes: &[u8]| {
    let Ok(head) = page::PageHead::parse(bytes) else {
        return;
    };
    match head.page_type {
        PageType::Nodes => {
            let nodes: Result<Vec<Node>> = NodePage::parse(bytes).and_then(Iterator::collect);
            if let Ok(nodes) = nodes {
                assert_eq!(nodes.len(), head.count as usize);
                assert!(nodes.is_sorted_by(|a, b| a.key < b.key));
                for node in &nodes {
                    node.check().unwrap();
                    key::check_key(&node.key).unwrap();
                }
            }
        }
        PageType::Inner => {
            if let Ok(entries) = parse_inner(bytes, head.level) {
                assert!(entries.is_sorted_by(|a, b| a.key < b.key));
            }
        }
        PageType::Extents => {
            if let Ok(extents) = parse_extents(bytes) {
                assert!(extents.iter().all(|extent| extent.check().is_ok()));
            }
        }
        PageType::ExtentInner => {
            let _ = parse_extent_inner(bytes, head.level);
        }
    }
});
