//! KAITO's own cases: its formula must reproduce every line, and our account must agree or say why not.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test helpers are outside of the in-tests switch"
)]

use kaito_placement::estimate::compatibility::{
    NodeGpus, NodeLabels, Preset, Shape, kaito_nodes, kaito_weight_bytes,
};
use kaito_placement::estimate::{Attention, Gpus, Model, Request, Unfit, estimate};

const GIB: u64 = 1 << 30;
const CASES: &str = include_str!("data/estimator_cases.csv");

/// Lines whose input or answer is known to be wrong upstream: id, corrected weights in hundredths of GiB, nodes, why.
///
/// No answer of our account differs from the table's; X07's input does.
const CORRECTIONS: [(&str, u64, u32, &str); 1] = [(
    "X07",
    1282,
    1,
    "the repository holds the weights twice (original/ and the root); the engine loads 12.82 GiB (PR 2315)",
)];

/// Heads and layers of the models behind the X lines: id, attention heads, KV heads, layers, quantised.
/// From each model's config.json as of 2026-08.
const SHAPES: [(&str, u32, u32, u32, bool); 12] = [
    ("X01", 32, 4, 48, false),
    ("X02", 32, 8, 32, false),
    ("X04", 64, 8, 80, false),
    ("X05", 8, 1, 35, false),
    ("X06", 16, 8, 30, false),
    ("X07", 64, 8, 24, true),
    ("X10", 40, 10, 40, false),
    ("X11", 32, 8, 36, true),
    ("X12", 8, 2, 24, false),
    ("X13", 32, 8, 26, true),
    ("X14", 8, 4, 34, false),
    ("X16", 64, 8, 24, true),
];

struct Case {
    id: String,
    sku: String,
    gpus: NodeGpus,
    existing: String,
    mig_profile: String,
    preset: String,
    weight_bytes: u64,
    kv_bytes_per_token: u64,
    distributed: bool,
    requested: Option<u32>,
    context: Option<u32>,
    expected: Result<u32, String>,
}

fn cases() -> Vec<Case> {
    let mut reader = csv::Reader::from_reader(CASES.as_bytes());
    let headers = reader.headers().unwrap().clone();
    reader
        .records()
        .map(|record| {
            let record = record.unwrap();
            let text = |name: &str| {
                let column = headers.iter().position(|header| header == name).unwrap();
                record[column].to_owned()
            };
            let number = |name: &str| text(name).parse::<u32>().ok();
            let memory = u64::from(number("gpu_mem_gib_total").unwrap_or(0)) * GIB;
            Case {
                id: text("id"),
                sku: text("sku"),
                gpus: NodeGpus {
                    count: number("gpu_count").unwrap_or(0),
                    memory_bytes: memory,
                },
                existing: text("byo_nodes"),
                mig_profile: text("mig_profile"),
                preset: text("preset"),
                weight_bytes: weight_bytes(&text("weights")),
                kv_bytes_per_token: text("kv_bytes_per_token").parse().unwrap_or(0),
                distributed: text("distributed") == "yes",
                requested: number("requested_count"),
                context: number("context"),
                expected: number("expected_nodes").ok_or_else(|| text("expected_error")),
            }
        })
        .collect()
}

/// `14.96Gi` as bytes, rounded up.
fn weight_bytes(text: &str) -> u64 {
    let Some(number) = text.strip_suffix("Gi") else {
        return 0;
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let hundredths: u64 = format!("{whole}{fraction:0<2}").parse().unwrap();
    (hundredths * GIB).div_ceil(100)
}

/// `gpu.product=… gpu.count=4 gpu.memory=81920` as the labels of one ready node.
fn node_labels(text: &str) -> NodeLabels {
    let label = |name: &str| {
        let value = text
            .split(' ')
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse::<u32>().ok())
    };
    NodeLabels {
        ready: true,
        gpu_count: label("gpu.count"),
        gpu_memory_mib: label("gpu.memory").map(u64::from),
    }
}

fn by_formula(case: &Case) -> Result<u32, String> {
    let preset = Preset {
        weight_bytes: case.weight_bytes,
        kv_bytes_per_token: case.kv_bytes_per_token,
        distributed: case.distributed,
    };
    let labels = [node_labels(&case.existing)];
    let shape = if !case.mig_profile.is_empty() {
        Shape::Mig {
            profile: &case.mig_profile,
        }
    } else if !case.existing.is_empty() {
        let nodes = match case.existing.as_str() {
            "none" => Ok(&labels[..0]),
            "list error" => Err("connection refused"),
            _ => Ok(&labels[..]),
        };
        Shape::ExistingNodes {
            nodes,
            partition_count: None,
        }
    } else {
        Shape::InstanceType {
            name: &case.sku,
            gpus: (case.gpus.count > 0).then_some(case.gpus),
        }
    };
    let preset = (!case.preset.is_empty()).then_some(&preset);
    kaito_nodes(preset, &shape, case.requested, case.context).map_err(|error| error.kind().into())
}

fn model_of(case: &Case) -> Model {
    let shape = SHAPES.iter().find(|shape| shape.0 == case.id);
    let (heads, kv_heads, layers, quantized) = shape.map_or((0, 0, 0, false), |shape| {
        (shape.1, shape.2, shape.3, shape.4)
    });
    Model {
        name: case.preset.clone(),
        weight_bytes: case.weight_bytes,
        kv_bytes_per_token: case.kv_bytes_per_token,
        context_limit: 0,
        attention_heads: heads,
        kv_heads,
        layers,
        attention: Attention::Heads,
        quantized,
        distributed: case.distributed,
    }
}

/// The GPUs of a case, if it has any that can be sized.
fn gpus_of(case: &Case) -> Option<Gpus> {
    let product = match case.sku.as_str() {
        "" if !case.mig_profile.is_empty() => format!("NVIDIA A100 MIG {}", case.mig_profile),
        "" => "Tesla-A100-SXM4-80GB".to_owned(),
        sku if sku.contains("A10_v5") => "NVIDIA A10".to_owned(),
        sku if sku.contains("A100_v4") => "NVIDIA A100".to_owned(),
        _ => return None,
    };
    (case.gpus.count > 0).then(|| Gpus {
        model: product,
        count: case.gpus.count,
        memory_bytes: case.gpus.memory_bytes / u64::from(case.gpus.count),
    })
}

#[test]
fn the_formula_reproduces_every_case_of_kaito() {
    let cases = cases();
    assert_eq!(cases.len(), 33, "a line was lost");
    for case in cases {
        assert_eq!(by_formula(&case), case.expected, "{}", case.id);
    }
}

#[test]
fn our_account_needs_the_nodes_that_kaito_expects() {
    let mut compared = 0;
    for case in cases().iter().filter(|case| !case.preset.is_empty()) {
        let Some(gpus) = gpus_of(case) else { continue };
        let request = Request {
            context: case.context,
            ..Request::default()
        };
        let ours = estimate(&model_of(case), &gpus, &request);
        match &case.expected {
            Ok(nodes) => {
                let ours = ours.unwrap_or_else(|unfit| panic!("{}: {unfit}", case.id));
                assert_eq!(ours.nodes, *nodes, "{}: {}", case.id, ours.explanation);
            }
            Err(kind) => {
                assert_eq!(kind, "mig_slice_too_small", "{}", case.id);
                assert!(
                    matches!(ours, Err(Unfit::GpuTooSmall(_))),
                    "{}: {ours:?}",
                    case.id
                );
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 24, "a line was skipped");
}

#[test]
fn corrected_cases_have_the_corrected_answer() {
    let cases = cases();
    for (id, hundredths, nodes, reason) in CORRECTIONS {
        let case = cases.iter().find(|case| case.id == id).unwrap();
        let weight_bytes = (hundredths * GIB).div_ceil(100);
        assert!(weight_bytes < case.weight_bytes, "{id}: {reason}");
        let model = Model {
            weight_bytes,
            ..model_of(case)
        };
        let fit = estimate(&model, &gpus_of(case).unwrap(), &Request::default()).unwrap();
        assert_eq!(fit.nodes, nodes, "{id}: {reason}");
    }
}

#[test]
fn worked_examples_of_the_formula_come_out() {
    let preset = |hundredths: u64, kv_bytes_per_token| Preset {
        weight_bytes: kaito_weight_bytes(hundredths * GIB / 100),
        kv_bytes_per_token,
        distributed: true,
    };
    let nodes = |preset: &Preset, gib: u64, count: u32, context| {
        let memory_bytes = gib * u64::from(count) * GIB;
        let gpus = Some(NodeGpus {
            count,
            memory_bytes,
        });
        kaito_nodes(
            Some(preset),
            &Shape::InstanceType { name: "t", gpus },
            None,
            Some(context),
        )
        .map_err(|error| error.kind())
    };
    let llama_8b = preset(1496, 131_072);
    assert_eq!(nodes(&llama_8b, 24, 1, 2048), Ok(1));
    assert_eq!(nodes(&llama_8b, 24, 1, 32_768), Ok(2));
    assert_eq!(
        nodes(&preset(712, 393_216), 24, 1, 131_072),
        Err("gpu_too_small")
    );
    let llama_70b = preset(13_142, 327_680);
    assert_eq!(
        (
            nodes(&llama_70b, 80, 2, 2048),
            nodes(&llama_70b, 80, 4, 2048)
        ),
        (Ok(2), Ok(1))
    );
    let deepseek = preset(64_130, 70_272);
    assert_eq!(
        (
            nodes(&deepseek, 141, 8, 2048),
            nodes(&deepseek, 94, 2, 2048)
        ),
        (Ok(1), Ok(5))
    );
    assert_eq!(
        nodes(&preset(6_100, 73_728), 80, 1, 2048),
        Ok(2),
        "gpt-oss-120b, weak spot 9"
    );
}

#[test]
fn partitions_and_unknown_shapes_follow_kaito() {
    let preset = Preset {
        weight_bytes: 8 * GIB,
        ..Preset::default()
    };
    let ready = NodeLabels {
        ready: true,
        gpu_count: Some(2),
        gpu_memory_mib: Some(24_576),
    };
    let broken = NodeLabels {
        ready: false,
        ..ready
    };
    let nodes = [broken, ready];
    let partition = |count| Shape::ExistingNodes {
        nodes: Ok(&nodes[..]),
        partition_count: count,
    };
    assert_eq!(
        kaito_nodes(Some(&preset), &partition(Some(1)), None, None),
        Ok(1)
    );
    let too_many = kaito_nodes(Some(&preset), &partition(Some(3)), None, None).unwrap_err();
    assert_eq!(too_many.kind(), "partition_too_large");
    let unready = Shape::ExistingNodes {
        nodes: Ok(&nodes[..1]),
        partition_count: None,
    };
    assert_eq!(
        kaito_nodes(Some(&preset), &unready, None, None)
            .unwrap_err()
            .kind(),
        "no_ready_nodes"
    );
    let unknown = Shape::InstanceType {
        name: "t",
        gpus: Some(NodeGpus::default()),
    };
    assert_eq!(kaito_nodes(Some(&preset), &unknown, Some(7), None), Ok(7));
    for profile in [
        "",
        "3g",
        "g.47gb",
        "3g.gb",
        "0g.5gb",
        "3g.47",
        "xg.47gb",
        "1g.1é.gb",
    ] {
        let error = kaito_nodes(Some(&preset), &Shape::Mig { profile }, None, None).unwrap_err();
        assert_eq!(error.kind(), "invalid_mig_profile", "{profile}");
    }
    for profile in ["3g.47gb", "2g.24gb+me", "1g.23.6gb"] {
        assert_eq!(
            kaito_nodes(Some(&preset), &Shape::Mig { profile }, None, None),
            Ok(1)
        );
    }
}
