//! One model preset: what the estimator, the engine and the rules need to know about a model.

use super::Row;

/// How a model's attention keeps keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Every head has its own.
    Mha,
    /// Groups of heads share.
    Gqa,
    /// All heads share one.
    Mqa,
    /// One latent vector per token, held whole by every tensor-parallel rank.
    Mla,
}

/// Whether the model hub asks for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gated {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// Not established.
    Unknown,
}

/// How weights reach the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Downloaded from the model hub at run time.
    Hub,
    /// Packaged in a public image.
    Image,
    /// Only in an image of the user's own; needs access mode `private` in v1alpha1.
    PrivateImage,
    /// No longer supported; refused at admission.
    Retired,
}

/// An engine that can run a preset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// vLLM.
    #[default]
    Vllm,
    /// Hugging Face transformers.
    Transformers,
    /// kaito-runtime's own engine, on the CPU.
    Native,
}

/// A model preset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Catalogue id, for most the id on the Hugging Face Hub.
    pub name: String,
    /// Other names, short ones first; may be empty.
    pub aliases: Vec<String>,
    /// Architecture classes of the model's configuration.
    pub architectures: Vec<String>,
    /// Licence id.
    pub license: String,
    /// Bytes of the weight files that the engine loads.
    pub weight_bytes: u64,
    /// Bytes of weights by KAITO's catalogue, which counts second copies too.
    pub upstream_weight_bytes: u64,
    /// Disk that a node needs for it, GiB.
    pub disk_gib: u32,
    /// Longest context, tokens.
    pub context_length: u32,
    /// Transformer layers.
    pub layers: u32,
    /// Attention heads.
    pub attention_heads: u32,
    /// Key-value heads.
    pub kv_heads: u32,
    /// Elements per head.
    pub head_dim: u32,
    /// How keys and values are kept.
    pub attention: Attention,
    /// Bytes of keys and values per token over all layers, at two bytes per element.
    pub kv_bytes_per_token: u64,
    /// Quantisation of the weights, `none` for none.
    pub quant: String,
    /// Element type that the engine is told, `auto` for the file's own.
    pub dtype: String,
    /// Weight file format that the engine is told.
    pub load_format: String,
    /// Engine's tool-call parser.
    pub tool_call_parser: Option<String>,
    /// Engine's reasoning parser.
    pub reasoning_parser: Option<String>,
    /// Chat template file.
    pub chat_template: Option<String>,
    /// Whether the hub asks for a token.
    pub gated: Gated,
    /// Commit on the hub that is meant; absent where none is pinned.
    pub revision: Option<String>,
    /// Whether a tuning Workspace may name it.
    pub tuning_capable: bool,
    /// Engines that can run it.
    pub runtimes: Vec<Runtime>,
    /// Rank of the latent vector; 0 unless attention is [`Attention::Mla`].
    pub kv_lora_rank: u32,
    /// Rotary part of a latent key; 0 where there is none.
    pub qk_rope_head_dim: u32,
    /// Tokenizer mode that the engine is told.
    pub tokenizer_mode: String,
    /// Further engine flags, `name` or `name=value`.
    pub engine_flags: Vec<String>,
    /// How weights reach the pod.
    pub delivery: Delivery,
    /// Remarks, separated by semicolons.
    pub notes: String,
}

impl Preset {
    /// Aliases, then the id.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.aliases
            .iter()
            .map(String::as_str)
            .chain([self.name.as_str()])
    }

    /// The name that users write: the first alias, else the id.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.aliases.first().unwrap_or(&self.name)
    }

    /// Whether `runtime` can run it.
    #[must_use]
    pub fn supports(&self, runtime: Runtime) -> bool {
        self.runtimes.contains(&runtime)
    }

    /// Whether the weights are quantised.
    #[must_use]
    pub fn is_quantized(&self) -> bool {
        self.quant != "none"
    }

    pub(super) fn parse(row: &Row<'_>) -> Option<Self> {
        Some(Self {
            name: row.owned("name")?,
            aliases: row.list("aliases")?,
            architectures: row.list("architectures")?,
            license: row.owned("license")?,
            weight_bytes: gib(row, "weights_gib")?,
            upstream_weight_bytes: gib(row, "upstream_weights_gib")?,
            disk_gib: row.number("disk_gib")?,
            context_length: row.number("context_length")?,
            layers: row.number("layers")?,
            attention_heads: row.number("heads")?,
            kv_heads: row.number("kv_heads")?,
            head_dim: row.number("head_dim")?,
            attention: attention(row.text("attention")?)?,
            kv_bytes_per_token: row.number("kv_bytes_per_token")?,
            quant: row.owned("quant")?,
            dtype: row.owned("dtype")?,
            load_format: row.owned("load_format")?,
            tool_call_parser: row.filled("tool_call_parser")?,
            reasoning_parser: row.filled("reasoning_parser")?,
            chat_template: row.filled("chat_template")?,
            gated: gated(row.text("gated")?)?,
            revision: row.filled("revision")?,
            tuning_capable: row.text("tuning")? != "no",
            runtimes: runtimes(row)?,
            kv_lora_rank: row.number("kv_lora_rank")?,
            qk_rope_head_dim: row.number("qk_rope_head_dim")?,
            tokenizer_mode: row.owned("tokenizer_mode")?,
            engine_flags: row.list("engine_flags")?,
            delivery: delivery(row.text("delivery")?)?,
            notes: row.owned("notes")?,
        })
    }
}

/// Bytes of a cell in GiB with at most two decimals, rounded down.
fn gib(row: &Row<'_>, column: &str) -> Option<u64> {
    row.decimal(column, 2)?
        .map(|hundredths| (hundredths << 30) / 100)
}

fn attention(text: &str) -> Option<Attention> {
    match text {
        "MHA" => Some(Attention::Mha),
        "GQA" => Some(Attention::Gqa),
        "MQA" => Some(Attention::Mqa),
        "MLA" => Some(Attention::Mla),
        _ => None,
    }
}

fn gated(text: &str) -> Option<Gated> {
    match text {
        "yes" => Some(Gated::Yes),
        "no" => Some(Gated::No),
        "unknown" => Some(Gated::Unknown),
        _ => None,
    }
}

fn delivery(text: &str) -> Option<Delivery> {
    match text {
        "hub" => Some(Delivery::Hub),
        "image" => Some(Delivery::Image),
        "private-image" => Some(Delivery::PrivateImage),
        "retired" => Some(Delivery::Retired),
        _ => None,
    }
}

fn runtimes(row: &Row<'_>) -> Option<Vec<Runtime>> {
    row.list("runtimes")?
        .iter()
        .map(|name| match name.as_str() {
            "vllm" => Some(Runtime::Vllm),
            "transformers" => Some(Runtime::Transformers),
            "native" => Some(Runtime::Native),
            _ => None,
        })
        .collect()
}
