//! The bill of materials of what is shipped, in the format CycloneDX 1.6, from `cargo metadata` and `Cargo.lock` alone: no network, no other
//! program. Owns the choice of what is in it (everything that is compiled into the two programs, and nothing that only tests or builds of other
//! systems need) and its form. Called by the binary `dbkeep-sbom`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Packages whose programs are shipped.
pub const SHIPPED: [&str; 2] = ["dbkeep-server", "dbkeep-client"];
/// Version of the format.
pub const SPECIFICATION: &str = "1.6";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
    workspace_members: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<String>,
    description: Option<String>,
    repository: Option<String>,
    source: Option<String>,
    #[serde(default)]
    authors: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

impl Dependency {
    /// Whether it becomes part of what is built: neither a test's nor a build script's dependency.
    fn is_compiled_in(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.is_none())
    }
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Asks cargo what the programs consist of on one system.
///
/// # Errors
/// Where cargo fails.
pub fn metadata(workspace: &Path, system: &str) -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", system])
        .args(["--features", "dbkeep-client/cli"])
        .current_dir(workspace)
        .output()
        .context("cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).context("cargo metadata is no UTF-8")
}

/// Makes the bill from what cargo said and from the lock file. The same input makes the same bill, but for `time`.
///
/// # Errors
/// Where either cannot be read, or a shipped package is not there.
pub fn bill(metadata: &str, lock: &str, time: &str) -> anyhow::Result<Value> {
    let metadata: Metadata = serde_json::from_str(metadata).context("cargo metadata")?;
    let lock: Lock = toml::from_str(lock).context("Cargo.lock")?;
    let checksums: BTreeMap<(&str, &str), &str> = lock
        .package
        .iter()
        .filter_map(|locked| Some(((locked.name.as_str(), locked.version.as_str()), locked.checksum.as_deref()?)))
        .collect();
    let packages: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package))
        .collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut next = Vec::new();
    for name in SHIPPED {
        let shipped = metadata.packages.iter().find(|package| package.name == name);
        let shipped = shipped.filter(|package| metadata.workspace_members.contains(&package.id));
        next.push(shipped.with_context(|| format!("there is no package {name}"))?.id.as_str());
    }
    let version = packages[next[0]].version.clone();
    let roots = next.clone();
    let mut parts: BTreeSet<&str> = BTreeSet::new();
    while let Some(id) = next.pop() {
        if !parts.insert(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("{id} is not resolved"))?;
        let compiled = node.deps.iter().filter(|dependency| dependency.is_compiled_in());
        next.extend(compiled.map(|dependency| dependency.pkg.as_str()));
    }
    let components: Vec<Value> = parts.iter().map(|id| component(packages[id], &checksums)).collect();
    let mut dependencies = vec![json!({
        "ref": "dbkeep",
        "dependsOn": roots.iter().map(|id| reference(packages[id])).collect::<BTreeSet<_>>(),
    })];
    dependencies.extend(parts.iter().map(|id| {
        let on: BTreeSet<String> = nodes[id]
            .deps
            .iter()
            .filter(|dependency| dependency.is_compiled_in())
            .map(|dependency| reference(packages[dependency.pkg.as_str()]))
            .collect();
        json!({ "ref": reference(packages[id]), "dependsOn": on })
    }));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "serialNumber": format!("urn:uuid:{}", serial(&components)),
        "version": 1,
        "metadata": {
            "timestamp": time,
            "tools": { "components": [{ "type": "application", "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") }] },
            "component": { "type": "application", "bom-ref": "dbkeep", "name": "dbkeep", "version": version },
        },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// The same for the same components.
fn serial(components: &[Value]) -> uuid::Uuid {
    let digest = Sha256::digest(serde_json::to_vec(components).unwrap_or_default());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The package URL, which is what others know it by.
fn reference(package: &Package) -> String {
    // Build metadata begins with a plus sign, which has a meaning in a URL.
    let version = package.version.replace('+', "%2B");
    format!("pkg:cargo/{}@{version}", package.name)
}

fn component(package: &Package, checksums: &BTreeMap<(&str, &str), &str>) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version,
        "purl": reference(package),
        "scope": "required",
    });
    let fields = component.as_object_mut();
    let Some(fields) = fields else { return component };
    if let Some(description) = &package.description {
        fields.insert(
            "description".into(),
            json!(description.split_whitespace().collect::<Vec<_>>().join(" ")),
        );
    }
    if !package.authors.is_empty() {
        fields.insert("author".into(), json!(package.authors.join(", ")));
    }
    let license = match (&package.license, &package.license_file) {
        // Before SPDX expressions a slash stood for a choice.
        (Some(license), _) => Some(json!([{ "expression": license.replace('/', " OR ") }])),
        (None, Some(file)) => Some(json!([{ "license": { "name": file } }])),
        (None, None) => None,
    };
    if let Some(license) = license {
        fields.insert("licenses".into(), license);
    }
    if let Some(checksum) = checksums.get(&(package.name.as_str(), package.version.as_str())) {
        fields.insert("hashes".into(), json!([{ "alg": "SHA-256", "content": checksum }]));
    }
    let mut links = Vec::new();
    if let Some(repository) = &package.repository {
        links.push(json!({ "type": "vcs", "url": repository }));
    }
    if let Some(source) = &package.source {
        links.push(json!({ "type": "distribution", "url": source.trim_start_matches("registry+") }));
    }
    if !links.is_empty() {
        fields.insert("externalReferences".into(), json!(links));
    }
    component
}
