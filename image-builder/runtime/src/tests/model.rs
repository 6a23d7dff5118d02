use candle_core::quantized::GgmlDType;

use super::fixture::{Shape, folder, gguf, weights};
use super::reference;
use crate::model::{Cache, Model, Source, Step};
use crate::text::Tokenizer;
use crate::text::tokenizer::Begin;

const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "phi3"];
const PROMPT: [u32; 11] = [72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100];

pub(super) fn load(kind: &'static str, seed: u64) -> Model {
    let shape = Shape::of(kind);
    let folder = folder(&shape, &weights(&shape, seed));
    Source::open(folder.path()).unwrap().load(None).unwrap()
}

pub(super) fn feed(model: &Model, cache: &mut Cache, tokens: &[u32]) -> Vec<f32> {
    let step = Step {
        cache,
        tokens,
        adapter: None,
        wants_logits: true,
    };
    model.forward(&mut [step]).remove(0).unwrap()
}

pub(super) fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    feed(model, &mut Cache::new(model.config()), tokens)
}

pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_family_computes_what_a_plain_implementation_computes() {
    for kind in FAMILIES {
        let shape = Shape::of(kind);
        let weights = weights(&shape, 1);
        let folder = folder(&shape, &weights);
        let model = Source::open(folder.path()).unwrap().load(None).unwrap();
        let expected = reference::logits(&shape, &weights, &PROMPT);
        let apart = reference::difference(&logits(&model, &PROMPT), &expected);
        assert!(apart < 1e-4, "{kind} is {apart} off");
    }
}

#[test]
fn a_gguf_file_computes_the_same_within_the_precision_of_its_bits() {
    let dense = [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16];
    // The quantised ones also round their inputs to 8 bits.
    let quantised = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
    ];
    let kinds = dense
        .iter()
        .map(|kind| (kind, 1e-4))
        .chain(quantised.iter().map(|kind| (kind, 0.05)));
    for (kind, limit) in kinds {
        for family in ["llama", "qwen2"] {
            let shape = Shape::of(family);
            let folder = tempfile::tempdir().unwrap();
            let back = gguf(
                &folder.path().join("m.gguf"),
                &shape,
                &weights(&shape, 2),
                *kind,
            );
            let source = Source::open(folder.path()).unwrap();
            let model = source.load(None).unwrap();
            let expected = reference::logits(&shape, &back, &PROMPT);
            let apart = reference::difference(&logits(&model, &PROMPT), &expected);
            assert!(apart < limit, "{family} in {kind:?} is {apart} off");
        }
    }
}

#[test]
fn a_gguf_file_splits_text_as_its_vocabulary_and_merges_say() {
    let shape = Shape::of("llama");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    gguf(&path, &shape, &weights(&shape, 2), GgmlDType::F16);
    let tokenizer = Tokenizer::load(&Source::open(&path).unwrap()).unwrap();
    let tokens = tokenizer.encode("a b<|im_end|>", Begin::Added).unwrap();
    assert_eq!(tokens, [97, 32, 98, 258]);
    assert!(tokenizer.is_end(258) && tokenizer.is_end(256) && !tokenizer.is_end(97));
    assert_eq!(tokenizer.decode(&tokens), "a b");
    assert!(tokenizer.template().is_some());
}

#[test]
fn company_in_a_batch_changes_no_bit() {
    for kind in FAMILIES {
        let model = load(kind, 3);
        let prompts: [&[u32]; 4] = [&PROMPT, &PROMPT[..3], &[5, 6, 7, 8], &[9]];
        let alone: Vec<Vec<u32>> = prompts
            .iter()
            .map(|prompt| bits(&logits(&model, prompt)))
            .collect();
        let mut caches = vec![Cache::new(model.config()); prompts.len()];
        let mut steps: Vec<Step<'_>> = caches
            .iter_mut()
            .zip(prompts)
            .map(|(cache, tokens)| Step {
                cache,
                tokens,
                adapter: None,
                wants_logits: true,
            })
            .collect();
        let together = model.forward(&mut steps);
        for (alone, together) in alone.iter().zip(together) {
            assert_eq!(alone, &bits(&together.unwrap()), "{kind}");
        }
    }
}

#[test]
fn a_prompt_read_in_parts_changes_no_bit() {
    for kind in FAMILIES {
        let model = load(kind, 4);
        let whole = bits(&logits(&model, &PROMPT));
        let mut cache = Cache::new(model.config());
        feed(&model, &mut cache, &PROMPT[..4]);
        feed(&model, &mut cache, &PROMPT[4..5]);
        assert_eq!(
            whole,
            bits(&feed(&model, &mut cache, &PROMPT[5..])),
            "{kind}"
        );
        assert_eq!(cache.tokens(), PROMPT.len());
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let model = load("llama", 5);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        bits(&pool.install(|| logits(&model, &PROMPT)))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn damaged_folders_are_told_by_the_name_of_what_is_wrong() {
    let shape = Shape::of("llama");
    let mut incomplete = weights(&shape, 6);
    incomplete.remove("model.layers.1.mlp.down_proj.weight");
    let folder = folder(&shape, &incomplete);
    let error = Source::open(folder.path()).unwrap().load(None).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("model.layers.1.mlp.down_proj.weight"),
        "{error}"
    );
    let empty = tempfile::tempdir().unwrap();
    assert!(
        Source::open(empty.path())
            .unwrap_err()
            .to_string()
            .contains("neither")
    );
}
