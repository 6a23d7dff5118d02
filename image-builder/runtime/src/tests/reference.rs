//! The same transformer in candle's plain operations, one token at a time over the whole sequence: slow, and sharing no
//! code with ours.

use std::collections::BTreeMap;

use candle_core::{D, Device, Tensor};

use super::fixture::Shape;

/// Logits after the last token.
pub(super) fn logits(
    shape: &Shape,
    weights: &BTreeMap<String, Tensor>,
    tokens: &[u32],
) -> Vec<f32> {
    let get = |name: &str| weights.get(name).unwrap().clone();
    let ids = Tensor::new(tokens, &Device::Cpu).unwrap();
    let mut x = get("model.embed_tokens.weight")
        .index_select(&ids, 0)
        .unwrap();
    for layer in 0..shape.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let normed = norm(&x, &get(&name("input_layernorm.weight")));
        let linear = |part: &str, x: &Tensor| {
            let y = x
                .matmul(&get(&name(&format!("{part}.weight"))).t().unwrap())
                .unwrap();
            match weights.get(&name(&format!("{part}.bias"))) {
                Some(bias) => y.broadcast_add(bias).unwrap(),
                None => y,
            }
        };
        let q = linear("self_attn.q_proj", &normed);
        let k = linear("self_attn.k_proj", &normed);
        let v = linear("self_attn.v_proj", &normed);
        let attended = attention(shape, &q, &k, &v);
        x = (x + linear("self_attn.o_proj", &attended)).unwrap();
        let normed = norm(&x, &get(&name("post_attention_layernorm.weight")));
        let gate = linear("mlp.gate_proj", &normed).silu().unwrap();
        let inner = (gate * linear("mlp.up_proj", &normed)).unwrap();
        x = (x + linear("mlp.down_proj", &inner)).unwrap();
    }
    let last = x.narrow(0, tokens.len() - 1, 1).unwrap();
    let normed = norm(&last, &get("model.norm.weight"));
    let out = normed.matmul(&get("lm_head.weight").t().unwrap()).unwrap();
    out.flatten_all().unwrap().to_vec1().unwrap()
}

fn norm(x: &Tensor, weight: &Tensor) -> Tensor {
    let mean = x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
    let root = (mean + 1e-5).unwrap().sqrt().unwrap();
    x.broadcast_div(&root)
        .unwrap()
        .broadcast_mul(weight)
        .unwrap()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "back to the width of the weights"
)]
fn attention(shape: &Shape, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    type Rows = Vec<Vec<f32>>;
    let (q, k, v): (Rows, Rows, Rows) = (
        q.to_vec2().unwrap(),
        k.to_vec2().unwrap(),
        v.to_vec2().unwrap(),
    );
    let head = shape.head;
    let mut out = vec![vec![0.0_f32; shape.heads * head]; q.len()];
    for (position, out) in out.iter_mut().enumerate() {
        for h in 0..shape.heads {
            let query = rotated(&q[position][h * head..(h + 1) * head], position);
            let shared = h / (shape.heads / shape.kv_heads) * head;
            let first = shape
                .window
                .map_or(0, |window| (position + 1).saturating_sub(window));
            let scores: Vec<f64> = (first..=position)
                .map(|other| {
                    let key = rotated(&k[other][shared..shared + head], other);
                    let dot: f64 = query.iter().zip(&key).map(|(a, b)| a * b).sum();
                    (dot / (head as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = scores.iter().sum();
            for d in 0..head {
                let mixed: f64 = scores
                    .iter()
                    .enumerate()
                    .map(|(i, score)| score * f64::from(v[first + i][shared + d]))
                    .sum();
                out[h * head + d] = (mixed / total) as f32;
            }
        }
    }
    let flat: Vec<f32> = out.concat();
    Tensor::from_vec(flat, (q.len(), shape.heads * head), &Device::Cpu).unwrap()
}

fn rotated(head: &[f32], position: usize) -> Vec<f64> {
    let half = head.len() / 2;
    let mut out = vec![0.0; head.len()];
    for i in 0..half {
        let angle = position as f64 / 10000_f64.powf(i as f64 / half as f64);
        let (x, y) = (f64::from(head[i]), f64::from(head[i + half]));
        out[i] = x * angle.cos() - y * angle.sin();
        out[i + half] = y * angle.cos() + x * angle.sin();
    }
    out
}

/// Largest difference, relative to the largest logit.
pub(super) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let apart = a
        .iter()
        .zip(b)
        .fold(0.0_f32, |apart, (a, b)| apart.max((a - b).abs()));
    apart / largest
}
