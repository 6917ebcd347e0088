//! stub
use crate::model::*;
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub tables: Vec<TableMeasure>,
    pub indexes: Vec<(String, Vec<String>)>,
    pub foreign_keys: Vec<(String, Vec<String>, String)>,
}
pub fn tables_of(_: &Script, _: EngineKind) -> Vec<String> {
    Vec::new()
}
pub fn assess(s: &Script, _: EngineKind, _: &Known) -> Vec<Impact> {
    s.statements()
        .map(|x| Impact {
            kind: x.sql.split_whitespace().next().unwrap_or("").to_uppercase(),
            locks: vec![],
            work: Work::Catalog,
            tables: vec![],
            changes_rows: false,
            loses_data: false,
            reasons: vec![],
        })
        .collect()
}
pub fn overall(_: &[Impact]) -> Risk {
    Risk::Low
}
pub fn estimate_ms(_: &Impact, _: &Known, _: EngineKind) -> Option<u64> {
    None
}
