//! `dbkeep grants`: the script as it is, the check and its exit code, JSON.

use crate::{
    cli::{dbkeep, json_lines, serve, text},
    fake::Fake,
};

#[tokio::test]
async fn the_script_is_printed_as_it_is_and_the_check_ends_with_what_is_missing() {
    let address = serve(&Fake::new([])).await;
    let script = dbkeep(address, &["grants", "main", "--role", "keeper"]).await;
    assert_eq!(
        text(&script.stdout),
        "GRANT SELECT ON TABLE users TO x;\nGRANT DELETE ON TABLE users TO x;\n"
    );
    assert_eq!(script.status.code(), Some(0));

    let check = dbkeep(address, &["grants", "main", "--check"]).await;
    let said = text(&check.stdout);
    assert_eq!(check.status.code(), Some(1), "{said}");
    for part in ["DELETE", "table public.users", "CREATEDB", "Note: a note."] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("SELECT"), "what is held is not missing: {said}");
    // Nothing is missing for what takes nothing.
    let check = dbkeep(address, &["grants", "main", "--check", "--for", "backups"]).await;
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stdout));

    let json = dbkeep(address, &["grants", "main", "--role", "keeper", "-o", "json"]).await;
    let [answer] = &json_lines(&json)[..] else {
        panic!("one line")
    };
    assert_eq!(answer["role"], "keeper");
    assert_eq!(answer["used"], serde_json::json!(["basis", "cleanup"]));
    assert_eq!(
        (
            answer["grants"].as_array().map(Vec::len),
            answer["missing"][0]["privilege"].as_str()
        ),
        (Some(2), Some("DELETE"))
    );
    assert_eq!(answer["excess"][0]["warning"], true);

    let none = dbkeep(address, &["grants", "small"]).await;
    assert_eq!(none.status.code(), Some(1), "{}", text(&none.stderr));
}
