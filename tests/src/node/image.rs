//! Small OCI images for tests, made in memory: one plain layer, a configuration, an archive in OCI layout.
//!
//! This is the suites' own writer, so that a node can be tested without the image builder. It pushes nothing.

use std::io;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Media types of the three parts.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The only program in the images of tests, linked statically.
pub(super) const BUSYBOX: &str = "/bin/busybox";
/// Names under which it is called in tests.
const APPLETS: [&str; 10] = [
    "sh", "cat", "echo", "env", "httpd", "id", "ls", "sleep", "touch", "wget",
];

/// What is at a path of an image.
#[derive(Debug, Clone)]
enum Entry {
    File { bytes: Vec<u8>, mode: u32 },
    Link { target: String },
}

/// An image to be.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Without a leading slash; in order.
    entries: Vec<(String, Entry)>,
    entrypoint: Vec<String>,
    user: String,
}

impl Image {
    /// An image without files.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// busybox of this machine with a shell, a web server and a client, and a folder `/www` that holds `index.html`.
    ///
    /// # Errors
    /// The system's, if busybox is not installed.
    pub fn busybox() -> io::Result<Self> {
        let bytes = std::fs::read(BUSYBOX)?;
        let program = BUSYBOX.trim_start_matches('/');
        let mut image = Self::empty().file(program, bytes, 0o755);
        for applet in APPLETS {
            image = image.link(&format!("bin/{applet}"), "busybox");
        }
        Ok(image
            .file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n".to_vec(), 0o644)
            .file("www/index.html", b"it works\n".to_vec(), 0o644)
            .entrypoint(&["/bin/sh"]))
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, path: &str, bytes: Vec<u8>, mode: u32) -> Self {
        self.entries
            .push((path.to_owned(), Entry::File { bytes, mode }));
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        let target = target.to_owned();
        self.entries.push((path.to_owned(), Entry::Link { target }));
        self
    }

    /// Sets the command that runs.
    #[must_use]
    pub fn entrypoint(mut self, command: &[&str]) -> Self {
        self.entrypoint = command.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    /// Sets the user that it runs as, such as `65532:65532`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Digest of the manifest, with `sha256:` in front.
    ///
    /// # Errors
    /// As [`Image::write_archive`].
    pub fn digest(&self) -> io::Result<String> {
        Ok(self.parts()?.manifest.digest)
    }

    /// Writes an archive (tar) in OCI layout. Its only image is called `name`, which oras reads as the tag and
    /// containerd as the whole reference.
    ///
    /// # Errors
    /// The system's, if the file cannot be written.
    pub fn write_archive(&self, path: &Path, name: &str) -> io::Result<()> {
        let parts = self.parts()?;
        let mut descriptor = parts.manifest.descriptor(MANIFEST);
        descriptor["annotations"] = json!({
            "org.opencontainers.image.ref.name": name,
            "io.containerd.image.name": name,
        });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        let mut archive = tar::Builder::new(std::fs::File::create(path)?);
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        append(
            &mut archive,
            "oci-layout",
            layout.to_string().as_bytes(),
            0o644,
        )?;
        append(
            &mut archive,
            "index.json",
            index.to_string().as_bytes(),
            0o644,
        )?;
        for blob in [&parts.layer, &parts.config, &parts.manifest] {
            let digest = blob.digest.trim_start_matches("sha256:");
            append(
                &mut archive,
                &format!("blobs/sha256/{digest}"),
                &blob.bytes,
                0o644,
            )?;
        }
        archive.into_inner()?.sync_all()
    }

    fn parts(&self) -> io::Result<Parts> {
        let layer = Blob::new(self.layer()?);
        // A plain layer's digest is also that of its contents.
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "User": self.user,
                "Env": ["PATH=/bin"],
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        });
        let config = Blob::new(config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": [layer.descriptor(LAYER)],
        });
        let manifest = Blob::new(manifest.to_string().into_bytes());
        Ok(Parts {
            layer,
            config,
            manifest,
        })
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::File { bytes, mode } => append(&mut layer, path, bytes, *mode)?,
                Entry::Link { target } => {
                    let mut header = header(0, 0o777);
                    header.set_entry_type(tar::EntryType::Symlink);
                    layer.append_link(&mut header, path, target)?;
                }
            }
        }
        layer.into_inner()
    }
}

struct Parts {
    layer: Blob,
    config: Blob,
    manifest: Blob,
}

struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        Self { digest, bytes }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header
}

fn append<W: io::Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    bytes: &[u8],
    mode: u32,
) -> io::Result<()> {
    let mut header = header(bytes.len() as u64, mode);
    archive.append_data(&mut header, path, bytes)
}

/// This machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::Image;

    #[test]
    fn the_same_files_give_the_same_digest_and_others_another() {
        let image = |text: &str| Image::empty().file("a", text.as_bytes().to_vec(), 0o644);
        let one = image("one").digest().unwrap();
        assert_eq!(one, image("one").digest().unwrap());
        assert_ne!(one, image("two").digest().unwrap());
        assert_ne!(one, image("one").user("1000").digest().unwrap());
    }
}
