//! Which files are taken, what each is, and what of it is read for the plan. May do no I/O.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::{Kind, Options, PlanError, Shape};
use crate::archive::{ArchiveError, NameKind, Names, check_path};
use crate::source::{File, Link, Tree};

/// What a file is to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FileKind {
    /// Tokenizer and configuration.
    Config,
    /// Card, licence, pictures.
    Doc,
    /// Programs.
    Code,
    /// Data.
    Dataset,
    /// Tensors.
    Weight,
}

/// What a plan reads of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Safetensors,
    Gguf,
    /// The first 16 bytes.
    Magic,
    /// All of a list of shards.
    Index,
    /// All of a text, if it is small.
    Text,
    Nothing,
}

const WEIGHTS: [&str; 17] = [
    "safetensors",
    "gguf",
    "ggml",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "onnx",
    "onnx_data",
    "h5",
    "msgpack",
    "tflite",
    "pb",
    "npz",
    "npy",
    "dduf",
    "engine",
];
const PICKLES: [&str; 6] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle"];
const DOCS: [&str; 9] = [
    "md", "pdf", "rst", "png", "jpg", "jpeg", "svg", "gif", "webp",
];
const DOC_NAMES: [&str; 6] = [
    "readme",
    "license",
    "licence",
    "notice",
    "use_policy",
    "copying",
];
const CODE: [&str; 9] = ["py", "sh", "ipynb", "rs", "go", "c", "cpp", "js", "ts"];
const DATASETS: [&str; 4] = ["parquet", "arrow", "csv", "jsonl"];
const CONFIGS: [&str; 11] = [
    "json", "txt", "model", "jinja", "yaml", "yml", "toml", "tiktoken", "vocab", "spm", "cfg",
];
const TEXTS: [&str; 17] = [
    "json", "txt", "jinja", "yaml", "yml", "toml", "cfg", "ini", "env", "md", "rst", "py", "sh",
    "ipynb", "pem", "key", "jsonl",
];

impl FileKind {
    /// The kind by the file's name; whether it was recognised, rather than guessed, is the second value.
    pub(crate) fn of(path: &str) -> (Self, bool) {
        let name = file_name(path).to_lowercase();
        let extension = extension(&name);
        let is = |list: &[&str]| list.contains(&extension);
        if is(&WEIGHTS) {
            (Self::Weight, true)
        } else if is(&DOCS) || DOC_NAMES.iter().any(|doc| name.starts_with(doc)) {
            (Self::Doc, true)
        } else if is(&CODE) {
            (Self::Code, true)
        } else if is(&DATASETS) {
            (Self::Dataset, true)
        } else {
            (Self::Config, is(&CONFIGS))
        }
    }

    /// The part of a ModelPack media type that names the kind.
    pub(crate) const fn media_type_part(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Config => "weight.config",
            Self::Doc => "doc",
            Self::Code => "code",
            Self::Dataset => "dataset",
        }
    }
}

/// What of a file is read for the plan.
pub(crate) fn reading(path: &str) -> Reading {
    let name = file_name(path).to_lowercase();
    let extension = extension(&name);
    if extension == "safetensors" {
        Reading::Safetensors
    } else if extension == "gguf" {
        Reading::Gguf
    } else if is_pickle_name(path) {
        Reading::Magic
    } else if name.ends_with(".index.json") {
        Reading::Index
    } else if TEXTS.contains(&extension) || name.starts_with('.') || !name.contains('.') {
        Reading::Text
    } else {
        Reading::Nothing
    }
}

/// Whether a name is one that pickles have.
pub(crate) fn is_pickle_name(path: &str) -> bool {
    let name = file_name(path).to_lowercase();
    PICKLES.contains(&extension(&name))
}

/// The last name of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn extension(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => extension,
        _ => "",
    }
}

/// What an image of a program holds besides files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extras<'a> {
    pub(crate) links: Vec<&'a Link>,
    pub(crate) empty_directories: Vec<&'a str>,
}

impl Extras<'_> {
    pub(crate) const fn is_empty(&self) -> bool {
        self.links.is_empty() && self.empty_directories.is_empty()
    }
}

/// What the globs leave: files sorted by path, and extras where they can be held.
pub(crate) fn select<'a>(
    tree: &'a Tree,
    options: &Options,
) -> Result<(Vec<&'a File>, Extras<'a>), PlanError> {
    let include = globs(&options.include)?;
    let exclude = globs(&options.exclude)?;
    let takes =
        |path: &str| (include.is_empty() || include.is_match(path)) && !exclude.is_match(path);
    let mut files: Vec<&File> = tree.files.iter().filter(|file| takes(&file.path)).collect();
    files.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
    if (options.kind, options.shape) != (Kind::Program, Shape::Image) {
        return Ok((files, Extras::default()));
    }
    let directories = tree.empty_directories.iter().map(String::as_str);
    let extras = Extras {
        links: tree.links.iter().filter(|link| takes(&link.path)).collect(),
        empty_directories: directories.filter(|path| takes(path)).collect(),
    };
    Ok((files, extras))
}

fn globs(globs: &[String]) -> Result<GlobSet, PlanError> {
    let refused = |glob: &str| {
        let glob = glob.to_owned();
        move |cause| PlanError::Glob { glob, cause }
    };
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        // As in .gitignore: `*` stops at `/` where the glob has one, else it is for names at any depth.
        let anywhere = if glob.contains('/') {
            glob.clone()
        } else {
            format!("**/{glob}")
        };
        let parsed = GlobBuilder::new(&anywhere)
            .literal_separator(true)
            .build()
            .map_err(refused(glob))?;
        set.add(parsed);
    }
    set.build().map_err(refused("all together"))
}

/// Refuses paths that must not be packaged, and an empty list. Where links lead is judged by the archive's writer.
pub(crate) fn check_names(
    files: &[&File],
    extras: &Extras<'_>,
    options: &Options,
) -> Result<(), PlanError> {
    if files.is_empty() {
        return Err(PlanError::Empty {
            reason: "no file is left",
        });
    }
    let root = options.image_root();
    if !root.is_empty() {
        check_path(root).map_err(PlanError::Path)?;
    }
    let files = files
        .iter()
        .map(|file| (file.path.as_str(), NameKind::File));
    let links = extras
        .links
        .iter()
        .map(|link| (link.path.as_str(), NameKind::Link));
    let directories = extras.empty_directories.iter();
    let directories = directories.map(|path| (*path, NameKind::Directory));
    let is_image = !matches!(options.shape, Shape::ModelPack(_));
    let mut names = Names::default();
    for (path, kind) in files.chain(links).chain(directories) {
        check_path(path).map_err(PlanError::Path)?;
        names.claim(path, kind).map_err(PlanError::Path)?;
        if is_image && path.split('/').any(|name| name.starts_with(".wh.")) {
            return Err(PlanError::Path(ArchiveError::Whiteout {
                path: path.to_owned(),
            }));
        }
    }
    Ok(())
}

/// The program that a container starts when nobody names one: the only file of a program.
pub(crate) fn only_program(files: &[&File], options: &Options) -> Option<String> {
    match (options.kind, files) {
        (Kind::Program, [file]) => Some(
            [options.image_root(), &file.path]
                .iter()
                .filter(|part| !part.is_empty())
                .fold(String::new(), |path, part| format!("{path}/{part}")),
        ),
        _ => None,
    }
}
