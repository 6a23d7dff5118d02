//! The real SmolLM2-135M-Instruct, where it lies: `KAITO_MODEL_SMOLLM2` names the GGUF file, else the cache is looked in.

use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::{Ends, Engine, Event, Limits, Reason, Request};
use crate::metrics::Metrics;
use crate::model::Source;
use crate::text::tokenizer::Begin;
use crate::text::{Sampling, Tokenizer};

fn weights() -> Option<PathBuf> {
    let named = std::env::var_os("KAITO_MODEL_SMOLLM2").map(PathBuf::from);
    let cached = std::env::var_os("KAITO_CACHE")
        .map(|cache| PathBuf::from(cache).join("models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    named.or(cached).filter(|path| path.is_file())
}

#[tokio::test]
async fn the_real_model_names_three_colours() {
    let Some(path) = weights() else {
        eprintln!("skipped: set KAITO_MODEL_SMOLLM2 to the GGUF file of SmolLM2-135M-Instruct");
        return;
    };
    let source = Source::open(&path).unwrap();
    let tokenizer = Arc::new(Tokenizer::load(&source).unwrap());
    let model = Arc::new(source.load(Some(512)).unwrap());
    let limits = Limits {
        sequences: 2,
        queue: 2,
        step_tokens: 64,
        cache_bytes: 64 << 20,
        threads: 2,
    };
    let (engine, _ended) =
        Engine::start(model, Arc::clone(&tokenizer), limits, Metrics::default()).unwrap();
    // Without the template's own system message, so that the prompt is the one that other engines were asked.
    let prompt = "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n";
    let request = Request {
        tokens: tokenizer.encode(prompt, Begin::Left).unwrap(),
        max_tokens: 32,
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        stops: Vec::new(),
        adapter: None,
        ends: Ends::Heeded,
    };
    let mut receiver = engine.submit(request).unwrap();
    let mut text = String::new();
    loop {
        match receiver.recv().await.unwrap() {
            Event::Text(more) => text.push_str(&more),
            Event::Done { reason, .. } => {
                assert_eq!(reason, Reason::Stop);
                break;
            }
        }
    }
    // What llama.cpp, and candle's own implementation of the model, say to the same prompt.
    assert_eq!(text, "1. Red\n2. Blue\n3. Green");
}
