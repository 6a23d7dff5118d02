//! In which form a registry takes blobs: what is known of hosts, and what to try next when one refuses. May do no I/O.

/// The form in which a blob is uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadForm {
    /// `PATCH` with the whole blob as its body, then `PUT` with the digest: one pass over data of unknown digest.
    Streamed,
    /// `PUT` with the whole blob as its body; the digest must be known before.
    Monolithic,
    /// Several `PATCH`es of this many bytes each, then `PUT`: for hosts or proxies that limit bodies.
    Segmented(u64),
}

/// Segments begin at this size: large enough that round trips do not count.
const FIRST_SEGMENT: u64 = 64 << 20;
/// Segments do not get smaller than this: below, requests cost more than bytes.
const LAST_SEGMENT: u64 = 4 << 20;

impl UploadForm {
    /// The form to begin with at a host.
    ///
    /// GitHub refuses large `PATCH`es, Google has no chunked upload, Amazon's `PATCH` wants parts of its own size (see the
    /// registries' own documentation; the table is refined by what each host answers).
    #[must_use]
    pub fn of_host(host: &str) -> Self {
        let name = host.split(':').next().unwrap_or(host);
        let monolithic = ["ghcr.io", "gcr.io", "public.ecr.aws"].contains(&name)
            || [".pkg.dev", ".gcr.io", ".amazonaws.com", ".amazonaws.com.cn"]
                .iter()
                .any(|suffix| name.ends_with(suffix));
        if monolithic {
            Self::Monolithic
        } else {
            Self::Streamed
        }
    }

    /// The form to try after this one was refused with `status`, or `None` when all were.
    #[must_use]
    pub fn after(self, status: u16) -> Option<Self> {
        match (self, status) {
            (Self::Segmented(size), 413 | 416) if size / 4 >= LAST_SEGMENT => {
                Some(Self::Segmented(size / 4))
            }
            (Self::Segmented(_), _) => None,
            (_, 413) | (Self::Monolithic, _) => Some(Self::Segmented(FIRST_SEGMENT)),
            (Self::Streamed, _) => Some(Self::Monolithic),
        }
    }

    /// Largest blob that a host takes, in bytes, where it is published.
    #[must_use]
    pub fn largest_blob(host: &str) -> Option<u64> {
        let name = host.split(':').next().unwrap_or(host);
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
        if ends(&[".azurecr.io", ".azurecr.cn", ".azurecr.us"]) {
            Some(200 << 30)
        } else if name == "public.ecr.aws" {
            Some(10_000 << 20)
        } else if ends(&[".amazonaws.com", ".amazonaws.com.cn"]) {
            Some(52_000 << 20)
        } else if name == "ghcr.io" {
            Some(10_000_000_000)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hosts_begin_with_the_form_that_they_take() {
        for host in [
            "ghcr.io",
            "europe-docker.pkg.dev",
            "eu.gcr.io",
            "1.dkr.ecr.eu-west-1.amazonaws.com",
        ] {
            assert_eq!(UploadForm::of_host(host), UploadForm::Monolithic, "{host}");
        }
        for host in [
            "me.azurecr.io",
            "docker.io",
            "localhost:5000",
            "harbor.example.com",
        ] {
            assert_eq!(UploadForm::of_host(host), UploadForm::Streamed, "{host}");
        }
    }

    #[test]
    fn refusals_lead_through_all_forms_and_end() {
        let mut form = UploadForm::Streamed;
        let mut seen = vec![form];
        while let Some(next) = form.after(if seen.len() == 1 { 405 } else { 413 }) {
            form = next;
            seen.push(form);
        }
        let segments = [64_u64, 16, 4].map(|size| UploadForm::Segmented(size << 20));
        assert_eq!(seen[..2], [UploadForm::Streamed, UploadForm::Monolithic]);
        assert_eq!(seen[2..], segments);
        assert_eq!(
            UploadForm::Streamed.after(413),
            Some(UploadForm::Segmented(64 << 20))
        );
    }
}
