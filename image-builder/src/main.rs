//! Entry point of `image-builder`; only starts the runtime and sets the exit status.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    image_builder::command::main().await.into()
}
