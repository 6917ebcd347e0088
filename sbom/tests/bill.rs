//! The bill of this checkout has every field that a reader of CycloneDX relies on, and holds what is shipped and nothing else.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;

fn bill() -> Value {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let metadata = dbkeep_sbom::metadata(&workspace, "x86_64-unknown-linux-gnu").unwrap();
    let lock = std::fs::read_to_string(workspace.join("Cargo.lock")).unwrap();
    dbkeep_sbom::bill(&metadata, &lock, "2026-01-01T00:00:00Z").unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} of {value}"))
}

#[test]
fn it_has_the_required_fields_and_every_reference_leads_somewhere() {
    let bill = bill();
    assert_eq!((text(&bill, "bomFormat"), text(&bill, "specVersion")), ("CycloneDX", "1.6"));
    assert_eq!(bill["version"], 1);
    let serial = text(&bill, "serialNumber").strip_prefix("urn:uuid:").unwrap();
    uuid::Uuid::parse_str(serial).unwrap();
    text(&bill["metadata"], "timestamp").parse::<jiff::Timestamp>().unwrap();
    assert_eq!(text(&bill["metadata"]["component"], "name"), "dbkeep");
    let mut references = BTreeSet::from(["dbkeep"]);
    for component in bill["components"].as_array().unwrap() {
        assert_eq!(text(component, "type"), "library");
        assert!(!text(component, "name").is_empty() && !text(component, "version").is_empty());
        assert!(text(component, "purl").starts_with("pkg:cargo/"), "{component}");
        assert!(references.insert(text(component, "bom-ref")), "{component} is there twice");
        assert!(component["licenses"][0].is_object(), "{component} has no licence");
        let ours = text(component, "name").starts_with("dbkeep-");
        let hash = component["hashes"][0]["content"].as_str();
        assert_eq!(hash.map(str::len), (!ours).then_some(64), "{component}");
    }
    let dependencies = bill["dependencies"].as_array().unwrap();
    assert_eq!(dependencies.len(), references.len());
    for dependency in dependencies {
        assert!(references.contains(text(dependency, "ref")), "{dependency}");
        for on in dependency["dependsOn"].as_array().unwrap() {
            assert!(references.contains(on.as_str().unwrap()), "{on}");
        }
    }
}

#[test]
fn it_holds_what_is_shipped_and_nothing_that_only_tests_need() {
    let bill = bill();
    let names: BTreeSet<&str> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| text(part, "name"))
        .collect();
    for shipped in [
        "dbkeep-server",
        "dbkeep-client",
        "dbkeep-engine",
        "sqlx",
        "tonic",
        "rustls",
        "lettre",
        "clap",
    ] {
        assert!(names.contains(shipped), "{shipped}");
    }
    for other in [
        "dbkeep-testkit",
        "dbkeep-demo",
        "dbkeep-fuzz",
        "proptest",
        "rcgen",
        "protox",
        "windows-sys",
    ] {
        assert!(!names.contains(other), "{other}");
    }
}

#[test]
fn the_same_checkout_makes_the_same_bill() {
    assert_eq!(bill(), bill());
}
