use super::{AzureOptions, AzureReference, AzureSource, drop_directories, relative};
use crate::source::remote::{ClientOptions, client};
use crate::source::{File, Source};

#[test]
fn references_name_account_container_and_prefix() {
    let parsed: AzureReference = "azblob://acc1/models/phi/4/".parse().unwrap();
    assert_eq!(
        (
            parsed.account.as_str(),
            parsed.container.as_str(),
            parsed.prefix.as_str()
        ),
        ("acc1", "models", "phi/4")
    );
    for bad in [
        "azblob://",
        "azblob://acc",
        "azblob://Acc/c",
        "azblob://acc/C",
    ] {
        assert!(bad.parse::<AzureReference>().is_err(), "{bad}");
    }
}

#[test]
fn paths_begin_below_the_prefix_and_stay_below_it() {
    assert_eq!(
        relative("phi/a/b", Some("phi/")).unwrap().as_deref(),
        Some("a/b")
    );
    assert_eq!(relative("phi/", Some("phi/")).unwrap(), None);
    assert_eq!(relative("other/a", Some("phi/")).unwrap(), None);
    for bad in ["phi/../x", "phi//x", "phi/a\\b"] {
        assert!(relative(bad, Some("phi/")).is_err(), "{bad}");
    }
}

#[test]
fn marks_of_directories_are_no_files() {
    let file = |path: &str, size| File {
        path: path.to_owned(),
        size,
        executable: false,
        known_digest: None,
    };
    let mut files = vec![
        file("a", 0),
        file("a/b", 0),
        file("c", 0),
        file("d", 1),
        file("d/e", 1),
    ];
    drop_directories(&mut files);
    let left: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(left, ["a/b", "c", "d", "d/e"]);
}

#[tokio::test]
async fn a_refusal_names_the_place_without_its_signature() {
    let server = crate::source::remote::tests::Server::start().await;
    let options = AzureOptions {
        sas: Some("sv=1&sig=secret".into()),
        address: Some(server.url("/acc").parse().unwrap()),
        ..AzureOptions::default()
    };
    let client = client(&ClientOptions::default()).unwrap();
    let reference = "azblob://acc/models/phi".parse().unwrap();
    let source = AzureSource::new(client, reference, options).unwrap();
    let error = source.list().await.unwrap_err().to_string();
    assert!(
        error.contains("/acc/models") && error.contains("check the account"),
        "{error}"
    );
    assert!(!error.contains("secret"), "{error}");
    let asked = server.seen();
    assert!(asked[0].path.starts_with("/acc/models?") && asked[0].path.contains("sig=secret"));
    assert!(asked[0].path.contains("prefix=phi%2F"), "{asked:?}");
}
