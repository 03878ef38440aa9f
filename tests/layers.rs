//! The layers of the architecture, read off the sources: who may import whom, and who may name the runtime.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is a failure that says where")]

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file below `src`, with its path from there.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    assert!(files.len() > 20, "the sources are where this test looks for them");
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// The lines of a source that are code.
fn code(source: &str) -> impl Iterator<Item = &str> {
    source.lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

#[test]
fn only_edge_names_the_runtime() {
    for (name, source) in sources() {
        if name.starts_with("edge/") {
            continue;
        }
        for line in code(&source) {
            for runtime in ["worker::", "js_sys", "web_sys", "wasm_bindgen", "SystemTime", "Instant"] {
                assert!(!line.contains(runtime), "{name}: {line}");
            }
        }
    }
}

#[test]
fn imports_point_towards_the_wire_vocabulary() {
    // For each layer, the modules that it must not know.
    let above = [
        ("api", &["framing", "dialect", "transcode", "config", "tenant", "health", "gateway", "admin", "edge"][..]),
        ("framing", &["api", "dialect", "transcode", "config", "tenant", "health", "gateway", "admin", "edge"]),
        ("dialect", &["transcode", "tenant", "quota", "health", "gateway", "admin", "edge"]),
        ("config", &["framing", "transcode", "tenant", "health", "gateway", "admin", "edge"]),
        ("tenant", &["framing", "dialect", "transcode", "config", "health", "gateway", "admin", "edge"]),
        ("health", &["api", "framing", "dialect", "transcode", "tenant", "quota", "gateway", "admin", "edge"]),
        ("transcode", &["config", "tenant", "health", "gateway", "admin", "edge"]),
        ("gateway", &["admin", "edge"]),
        ("admin", &["framing", "dialect", "transcode", "health", "edge"]),
    ];
    let mut seen = 0;
    for (name, source) in sources() {
        let layer = name.split(['/', '.']).next().unwrap();
        let Some((_, forbidden)) = above.iter().find(|(module, _)| *module == layer) else { continue };
        seen += 1;
        for line in code(&source) {
            assert!(!line.contains("crate::{"), "{name}: a path a line, so that this test can read it: {line}");
            for module in *forbidden {
                assert!(!line.contains(&format!("crate::{module}")), "{name}: {line}");
            }
        }
    }
    assert!(seen > 20, "only {seen} files belong to a layer");
}

#[test]
fn async_stands_only_in_gateway_admin_and_edge() {
    for (name, source) in sources() {
        if !["gateway/", "admin/", "edge/"].iter().any(|layer| name.starts_with(layer)) {
            assert!(code(&source).all(|line| !line.contains("async ") && !line.contains(".await")), "{name}");
        }
    }
}
