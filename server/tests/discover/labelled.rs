//! The labelled schemas: everything expected is found, nothing wrong is told with a confidence that it does not deserve.

use dbkeep_engine::discover::{Discovery, HintKind};

use super::{
    lab::{BOTH, Lab, Labels, assert_calibrated},
    platform, schemas,
};

fn hints(found: &Discovery, kind: HintKind) -> Vec<String> {
    let of_kind = found.hints.iter().filter(|hint| hint.kind == kind);
    of_kind
        .map(|hint| format!("{}.{}", hint.table, hint.columns.join("+")))
        .collect()
}

#[tokio::test]
async fn no_wrong_proposal_stands_above_its_confidence() {
    let mut judged = Vec::new();
    for database in BOTH {
        let lab = Lab::with(database, &schemas::shop()).await;
        let found = lab.discover().await;
        assert!(found.complete && found.warnings.is_empty(), "{:?}", found.warnings);
        judged.extend(Labels::new(schemas::SHOP_EXPECTED, schemas::SHOP_RIGHT).judge(&format!("shop on {database:?}"), &found));

        let lab = Lab::with(database, &schemas::cms()).await;
        let found = lab.discover().await;
        judged.extend(Labels::new(schemas::CMS_EXPECTED, schemas::CMS_RIGHT).judge(&format!("cms on {database:?}"), &found));
        assert_eq!(
            hints(&found, HintKind::Polymorphic),
            ["Comments.commentableType+commentableId"]
        );
        let pair = found
            .hints
            .iter()
            .find(|hint| hint.kind == HintKind::Polymorphic)
            .expect("the pair");
        assert_eq!(pair.candidates, ["BlogPost = BlogPosts", "MediaAsset = MediaAssets"]);
        assert_eq!(
            hints(&found, HintKind::FileReference),
            ["Authors.avatarPath", "MediaAssets.fileName"]
        );

        for declared in [false, true] {
            let (lab, _) = platform::generated(database, declared).await;
            let found = lab.discover().await;
            judged.extend(platform::labels().judge(&format!("platform on {database:?}, declared {declared}"), &found));
        }
    }
    assert_calibrated(&judged);
}
