//! Compiles `proto/` to Rust, to a descriptor set for reflection, and to a list of methods; needs no `protoc` on the machine.

use std::{collections::BTreeMap, env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from("proto");
    let mut protos = Vec::new();
    for entry in fs::read_dir(root.join("dbkeep/v1"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            protos.push(path);
        }
    }
    protos.sort();
    println!("cargo:rerun-if-changed=proto/dbkeep/v1");

    let descriptors = protox::compile(&protos, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("dbkeep.v1.bin"), descriptors.encode_to_vec())?;
    fs::write(out.join("methods.rs"), methods(&descriptors)?)?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

/// The enum of every method of package `dbkeep.v1`, over which whoever decides something for each of them matches.
fn methods(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let (mut variants, mut paths, mut streams) = (String::new(), BTreeMap::new(), Vec::new());
    for file in descriptors.file.iter().filter(|file| file.package() == "dbkeep.v1") {
        for service in &file.service {
            for method in &service.method {
                let (name, path) = (
                    method.name().to_owned(),
                    format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                );
                if method.client_streaming() {
                    return Err(format!("{path} has a stream of requests; the server's gate reads one request").into());
                }
                writeln!(variants, "    /// `{path}`\n    {name},")?;
                if method.server_streaming() {
                    streams.push(format!("Self::{name}"));
                }
                if let Some(other) = paths.insert(name, path) {
                    return Err(format!(
                        "{other} has a namesake in another service; expected names that differ within the package"
                    )
                    .into());
                }
            }
        }
    }
    let (mut all, mut arms) = (String::new(), String::new());
    for (name, path) in &paths {
        writeln!(all, "        Self::{name},")?;
        writeln!(arms, "            Self::{name} => {path:?},")?;
    }
    let (count, streams) = (paths.len(), streams.join(" | "));
    Ok(format!(
        "/// A method of `dbkeep.v1`. Whoever matches over it without a wildcard does not compile once there is another.\n\
         #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]\n\
         pub enum Method {{\n{variants}}}\n\n\
         impl Method {{\n    \
             /// Every method.\n    \
             pub const ALL: [Self; {count}] = [\n{all}    ];\n\n    \
             /// Its path, as HTTP/2 carries it.\n    \
             #[must_use]\n    \
             pub const fn path(self) -> &'static str {{\n        match self {{\n{arms}        }}\n    }}\n\n    \
             /// Whether its answer is a stream.\n    \
             #[must_use]\n    \
             pub const fn streams(self) -> bool {{\n        matches!(self, {streams})\n    }}\n\
         }}\n"
    ))
}
