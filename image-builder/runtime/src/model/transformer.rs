//! The forward pass: any number of sequences, each with any number of new tokens, in one go.

use rayon::prelude::*;

use super::attention::Attention;
use super::cache::Cache;
use super::config::Config;
use super::lora::Adapter;
use super::rope::Rope;
use crate::kernel::matrix::{Input, Matrix, multiply_all};
use crate::kernel::vector::{add, rms_norm, rotate, swiglu};

/// A matrix, and what is added to its product.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The weights.
    pub matrix: Matrix,
    /// One value for each row.
    pub bias: Option<Vec<f32>>,
}

/// One of the seven matrices of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// `q_proj`.
    Query,
    /// `k_proj`.
    Key,
    /// `v_proj`.
    Value,
    /// `o_proj`.
    Output,
    /// `gate_proj`.
    Gate,
    /// `up_proj`.
    Up,
    /// `down_proj`.
    Down,
}

/// One layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Norm before attention.
    pub attention_norm: Vec<f32>,
    /// Queries.
    pub query: Linear,
    /// Keys.
    pub key: Linear,
    /// Values.
    pub value: Linear,
    /// From the heads back to the stream.
    pub output: Linear,
    /// Norm before the feed-forward part.
    pub feed_norm: Vec<f32>,
    /// Goes through the nonlinearity.
    pub gate: Linear,
    /// Is multiplied with it.
    pub up: Linear,
    /// Back to the stream.
    pub down: Linear,
}

/// A model in memory. It is never changed: any number of threads may read it.
#[derive(Clone, Debug)]
pub struct Model {
    config: Config,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// The embedding serves, if there is none.
    output: Option<Matrix>,
    rope: Rope,
}

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Step<'a> {
    /// What the sequence remembers; the new tokens are added to it.
    pub cache: &'a mut Cache,
    /// The new tokens; not empty.
    pub tokens: &'a [u32],
    /// Adapter of this sequence.
    pub adapter: Option<&'a Adapter>,
    /// Whether the logits after the last token are wanted.
    pub wants_logits: bool,
}

/// Where the tokens of a step lie in the batch, and which adapter they go through.
struct Span<'a> {
    first: usize,
    end: usize,
    adapter: Option<&'a Adapter>,
}

impl Model {
    /// Puts a model together for sequences of at most `positions` tokens.
    #[must_use]
    pub fn new(
        config: Config,
        positions: usize,
        embedding: Matrix,
        layers: Vec<Layer>,
        norm: Vec<f32>,
        output: Option<Matrix>,
    ) -> Self {
        let rope = Rope::new(&config, positions);
        Self {
            config,
            embedding,
            layers,
            norm,
            output,
            rope,
        }
    }

    /// Its shape.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Entries of the vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.embedding.rows()
    }

    /// Advances every sequence by its new tokens; for each the logits, if they were wanted. Runs on the current rayon
    /// pool. Tokens outside the vocabulary count as zeros.
    pub fn forward(&self, steps: &mut [Step<'_>]) -> Vec<Option<Vec<f32>>> {
        let hidden = self.config.hidden;
        let mut spans = Vec::with_capacity(steps.len());
        let mut positions = Vec::new();
        let mut stream = Vec::new();
        for step in steps.iter() {
            let first = positions.len();
            for (i, token) in step.tokens.iter().enumerate() {
                positions.push(step.cache.tokens + i);
                self.embedding.row(*token as usize, &mut stream);
                stream.resize(positions.len() * hidden, 0.0);
            }
            spans.push(Span {
                first,
                end: positions.len(),
                adapter: step.adapter,
            });
        }
        for (number, layer) in self.layers.iter().enumerate() {
            self.attend(number, layer, &mut stream, &positions, &spans, steps);
            self.feed(number, layer, &mut stream, &spans);
        }
        for step in steps.iter_mut() {
            step.cache.tokens += step.tokens.len();
        }
        self.logits(&stream, &spans, steps)
    }

    fn attend(
        &self,
        number: usize,
        layer: &Layer,
        stream: &mut [f32],
        positions: &[usize],
        spans: &[Span<'_>],
        steps: &mut [Step<'_>],
    ) {
        let normed = self.normed(stream, &layer.attention_norm);
        let input = Input::new(&normed, self.config.hidden);
        let linears = [&layer.query, &layer.key, &layer.value];
        let products = multiply_all(linears.map(|linear| &linear.matrix), &input);
        let [mut queries, mut keys, mut values] = products;
        for (linear, out) in linears.iter().zip([&mut queries, &mut keys, &mut values]) {
            add_bias(linear, out);
        }
        adapt(number, Target::Query, spans, &normed, &mut queries);
        adapt(number, Target::Key, spans, &normed, &mut keys);
        adapt(number, Target::Value, spans, &normed, &mut values);
        self.rotate_all(&mut queries, self.config.heads, positions);
        self.rotate_all(&mut keys, self.config.kv_heads, positions);

        let (width, kv) = (self.config.heads * self.config.head, self.config.kv_width());
        let mut attended = vec![0.0; queries.len()];
        for (span, step) in spans.iter().zip(steps) {
            let new = span.first * kv..span.end * kv;
            let (keys, values) = (keys.get(new.clone()), values.get(new));
            step.cache
                .append(number, keys.unwrap_or_default(), values.unwrap_or_default());
            let Some(cache) = step.cache.layers.get(number) else {
                continue;
            };
            let place = span.first * width..span.end * width;
            let attention = Attention {
                config: &self.config,
                cache,
                start: step.cache.tokens,
                queries: queries.get(place.clone()).unwrap_or_default(),
            };
            attention.compute(attended.get_mut(place).unwrap_or_default());
        }
        let mut out = layer.output.matrix.multiply(&Input::new(&attended, width));
        add_bias(&layer.output, &mut out);
        adapt(number, Target::Output, spans, &attended, &mut out);
        add(stream, &out);
    }

    fn feed(&self, number: usize, layer: &Layer, stream: &mut [f32], spans: &[Span<'_>]) {
        let normed = self.normed(stream, &layer.feed_norm);
        let input = Input::new(&normed, self.config.hidden);
        let [mut gate, mut up] = multiply_all([&layer.gate.matrix, &layer.up.matrix], &input);
        add_bias(&layer.gate, &mut gate);
        add_bias(&layer.up, &mut up);
        adapt(number, Target::Gate, spans, &normed, &mut gate);
        adapt(number, Target::Up, spans, &normed, &mut up);
        let chunk = 16 * 1024;
        gate.par_chunks_mut(chunk)
            .zip(up.par_chunks(chunk))
            .for_each(|(gate, up)| swiglu(gate, up));
        let input = Input::new(&gate, self.config.intermediate);
        let mut out = layer.down.matrix.multiply(&input);
        add_bias(&layer.down, &mut out);
        adapt(number, Target::Down, spans, &gate, &mut out);
        add(stream, &out);
    }

    fn normed(&self, stream: &[f32], weight: &[f32]) -> Vec<f32> {
        let hidden = self.config.hidden;
        let mut normed = vec![0.0; stream.len()];
        normed
            .par_chunks_mut(hidden)
            .zip(stream.par_chunks(hidden))
            .with_min_len(16)
            .for_each(|(out, values)| rms_norm(values, weight, self.config.epsilon, out));
        normed
    }

    fn rotate_all(&self, vectors: &mut [f32], heads: usize, positions: &[usize]) {
        vectors
            .par_chunks_mut(heads * self.config.head)
            .zip(positions)
            .with_min_len(16)
            .for_each(|(vector, position)| {
                let (cosines, sines) = self.rope.at(*position);
                for head in vector.chunks_mut(self.config.head) {
                    rotate(head, cosines, sines);
                }
            });
    }

    fn logits(
        &self,
        stream: &[f32],
        spans: &[Span<'_>],
        steps: &[Step<'_>],
    ) -> Vec<Option<Vec<f32>>> {
        let hidden = self.config.hidden;
        let mut last = Vec::new();
        for (span, step) in spans.iter().zip(steps) {
            if step.wants_logits {
                let place = span.end.saturating_sub(1) * hidden..span.end * hidden;
                last.extend_from_slice(stream.get(place).unwrap_or_default());
            }
        }
        let normed = self.normed(&last, &self.norm);
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        let all = output.multiply(&Input::new(&normed, hidden));
        let mut each = all.chunks(output.rows().max(1));
        let of = |step: &Step<'_>| step.wants_logits.then(|| each.next().map(<[f32]>::to_vec));
        steps.iter().map(of).map(Option::flatten).collect()
    }
}

fn add_bias(linear: &Linear, out: &mut [f32]) {
    if let Some(bias) = &linear.bias {
        for token in out.chunks_mut(bias.len().max(1)) {
            add(token, bias);
        }
    }
}

/// Adds what the adapters of the spans make of the same input.
fn adapt(layer: usize, target: Target, spans: &[Span<'_>], input: &[f32], out: &mut [f32]) {
    let tokens = spans.last().map_or(0, |span| span.end).max(1);
    let (columns, rows) = (input.len() / tokens, out.len() / tokens);
    for span in spans {
        let Some(change) = span.adapter.and_then(|all| all.change(layer, target)) else {
            continue;
        };
        let input = input.get(span.first * columns..span.end * columns);
        let out = out.get_mut(span.first * rows..span.end * rows);
        if let (Some(input), Some(out)) = (input, out) {
            change.apply(input, columns, out);
        }
    }
}
