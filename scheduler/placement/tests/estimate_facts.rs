//! What is known of real models on real cards, and what overrides and refusals say.

#![expect(
    clippy::panic,
    reason = "test helpers are outside of the in-tests switch"
)]

use kaito_placement::estimate::{
    Attention, Estimate, Gpus, Model, Offer, Request, Unfit, estimate, rank,
};

const GIB: u64 = 1 << 30;

fn gpus(product: &str, gib: u64, count: u32) -> Gpus {
    Gpus {
        model: product.into(),
        count,
        memory_bytes: gib * GIB,
    }
}

fn a100(count: u32) -> Gpus {
    gpus("NVIDIA A100", 80, count)
}

fn a10(count: u32) -> Gpus {
    gpus("NVIDIA A10", 24, count)
}

/// A model of 16-bit weights: hundredths of GiB, KV bytes per token, limit, heads, KV heads, layers.
fn model(name: &str, hundredths: u64, kv: u64, limit: u32, shape: (u32, u32, u32)) -> Model {
    Model {
        name: name.into(),
        weight_bytes: (hundredths * GIB).div_ceil(100),
        kv_bytes_per_token: kv,
        context_limit: limit,
        attention_heads: shape.0,
        kv_heads: shape.1,
        layers: shape.2,
        attention: Attention::Heads,
        quantized: false,
        distributed: true,
    }
}

fn phi_4() -> Model {
    model("phi-4", 2731, 204_800, 16_384, (40, 10, 40))
}

fn phi_4_mini() -> Model {
    model("phi-4-mini", 715, 131_072, 131_072, (24, 8, 32))
}

fn llama_70b() -> Model {
    model("llama-3.3-70b", 13_142, 327_680, 131_072, (64, 8, 80))
}

fn gpt_oss_120b() -> Model {
    Model {
        quantized: true,
        ..model("gpt-oss-120b", 6_100, 73_728, 131_072, (64, 8, 36))
    }
}

fn mistral_large() -> Model {
    Model {
        quantized: true,
        attention: Attention::Latent,
        ..model("mistral-large-3", 63_470, 70_272, 294_912, (128, 128, 61))
    }
}

fn fit(model: &Model, gpus: &Gpus, request: &Request) -> Estimate {
    estimate(model, gpus, request).unwrap_or_else(|unfit| panic!("{unfit}"))
}

fn asking(edit: impl FnOnce(&mut Request)) -> Request {
    let mut request = Request::default();
    edit(&mut request);
    request
}

fn layout(estimate: &Estimate) -> (u32, u32, u32, u32) {
    let Estimate {
        nodes,
        gpus_per_node,
        tensor_parallel,
        pipeline_parallel,
        ..
    } = estimate;
    (*nodes, *gpus_per_node, *tensor_parallel, *pipeline_parallel)
}

#[test]
fn phi_4_takes_one_a100_also_of_a_bigger_node() {
    for count in [1, 2, 4] {
        let fit = fit(&phi_4(), &a100(count), &Request::default());
        assert_eq!(layout(&fit), (1, 1, 1, 1));
        assert_eq!((fit.context, fit.max_context), (8_192, 16_384));
        assert!(fit.warnings.is_empty(), "{:?}", fit.warnings);
    }
}

#[test]
fn llama_70b_takes_two_nodes_of_two_a100_or_one_of_four() {
    let request = Request::default();
    assert_eq!(layout(&fit(&llama_70b(), &a100(2), &request)), (2, 2, 2, 2));
    assert_eq!(layout(&fit(&llama_70b(), &a100(4), &request)), (1, 4, 4, 1));
}

#[test]
fn gpt_oss_120b_starts_on_one_a100() {
    assert_eq!(
        layout(&fit(&gpt_oss_120b(), &a100(1), &Request::default())),
        (1, 1, 1, 1)
    );
}

#[test]
fn phi_4_mini_reaches_the_measured_context_on_a_big_and_a_small_card() {
    let request = Request::default();
    assert_eq!(fit(&phi_4_mini(), &a100(1), &request).max_context, 131_072);
    let on_a10 = f64::from(fit(&phi_4_mini(), &a10(1), &request).max_context);
    assert!((on_a10 / 83_640.0 - 1.0).abs() < 0.10, "{on_a10} tokens");
}

#[test]
fn llama_8b_has_room_for_the_default_context_on_an_a10() {
    let llama = model("llama-3.1-8b", 1496, 131_072, 131_072, (32, 8, 32));
    assert_eq!(
        layout(&fit(&llama, &a10(1), &Request::default())),
        (1, 1, 1, 1)
    );
}

#[test]
fn mistral_large_needs_the_sixth_pair_of_h100_that_operators_needed() {
    let h100 = gpus("NVIDIA H100", 94, 2);
    assert_eq!(
        layout(&fit(&mistral_large(), &h100, &Request::default())),
        (6, 2, 2, 6)
    );
}

#[test]
fn latent_and_scarce_kv_heads_gain_nothing_from_tensor_parallelism() {
    let request = |tensor_parallel| Request {
        tensor_parallel,
        ..Request::default()
    };
    let latent = Model {
        attention: Attention::Latent,
        ..phi_4()
    };
    let few = Model {
        kv_heads: 2,
        ..phi_4()
    };
    let kv = |model: &Model, size| {
        fit(model, &a100(8), &request(Some(size)))
            .memory_per_gpu
            .kv_cache
    };
    assert_eq!(kv(&latent, 1), kv(&latent, 4));
    assert_eq!(kv(&few, 1), 2 * kv(&few, 2));
    assert_eq!(kv(&few, 2), kv(&few, 8));
    assert_eq!(kv(&phi_4(), 1), 5 * kv(&phi_4(), 5));
}

#[test]
fn an_fp8_cache_takes_half() {
    let bytes = |kv_element_bytes| {
        let request = Request {
            kv_element_bytes,
            ..Request::default()
        };
        fit(&phi_4(), &a100(1), &request).memory_per_gpu.kv_cache
    };
    assert_eq!(bytes(None), 2 * bytes(Some(1)));
}

#[test]
fn the_split_adds_up_to_what_the_engine_may_take() {
    let fit = fit(&phi_4(), &a100(1), &Request::default());
    let split = fit.memory_per_gpu;
    let sum = split.weights + split.kv_cache + split.overhead + split.free;
    let available = 80.0 * GIB as f64 * 0.84;
    assert!((sum as f64 - available).abs() < 2.0);
    assert_eq!(split.kv_cache, 8_192 * 204_800);
    for number in ["27.86", "1.56", "67.20", "80.00", "0.84", "8192"] {
        assert!(
            fit.explanation.contains(number),
            "{number}: {}",
            fit.explanation
        );
    }
}

#[test]
fn concurrency_costs_cache_and_data_parallelism_shares_it() {
    let request = |concurrency, data_parallel| Request {
        concurrency: Some(concurrency),
        data_parallel,
        context: Some(8_192),
        ..Request::default()
    };
    let one = fit(&phi_4(), &a100(2), &request(20, None));
    assert_eq!(layout(&one), (1, 1, 1, 1));
    let more = fit(&phi_4(), &a100(2), &request(one.max_concurrency + 1, None));
    assert_eq!(layout(&more), (1, 2, 2, 1));
    let replicas = fit(
        &phi_4(),
        &a100(2),
        &request(one.max_concurrency + 1, Some(2)),
    );
    assert_eq!(layout(&replicas), (1, 2, 1, 1));
    assert_eq!(replicas.max_concurrency, 2 * one.max_concurrency);
    assert!(
        replicas
            .warnings
            .iter()
            .any(|warning| warning.contains("data parallel 2"))
    );
}

#[test]
fn overrides_are_kept_and_their_risks_told() {
    let told = |part: &str, edit: fn(&mut Request)| {
        let fit = fit(&phi_4(), &a100(4), &asking(edit));
        let told = fit.warnings.iter().any(|warning| warning.contains(part));
        assert!(told, "{part}: {:?} {}", fit.warnings, fit.explanation);
    };
    told("utilization 0.97", |r| r.utilization = Some(0.97));
    told("above the 0.84", |r| r.utilization = Some(0.9));
    told("limit of 16384", |r| r.context = Some(20_000));
    told("max-num-seqs", |r| {
        (r.concurrency, r.context) = (Some(300), Some(16));
    });
    told("accuracy", |r| r.kv_element_bytes = Some(1));
    told("through the network", |r| r.tensor_parallel = Some(10));
    told("10 KV heads", |r| r.tensor_parallel = Some(20));
    told("2 pipeline stages", |r| r.pipeline_parallel = Some(2));
    told("takes 4 GPUs; 1 would do", |r| r.gpus_per_node = Some(4));
    told("takes 2 GPUs; 1 would do", |r| r.nodes = Some(2));
    told("less than 10 %", |r| {
        (r.gpus_per_node, r.context) = (Some(1), Some(160_000));
    });
}

#[test]
fn fixed_sizes_are_used_even_where_fewer_would_do() {
    let request = Request {
        nodes: Some(2),
        gpus_per_node: Some(4),
        ..Request::default()
    };
    assert_eq!(layout(&fit(&llama_70b(), &a100(4), &request)), (2, 4, 4, 2));
    let request = Request {
        gpus_per_node: Some(3),
        ..Request::default()
    };
    assert_eq!(layout(&fit(&phi_4(), &a100(4), &request)), (1, 3, 1, 3));
}

#[test]
fn what_cannot_start_is_refused_with_what_to_do() {
    let refused = |request: Request| estimate(&phi_4(), &a100(4), &request).unwrap_err();
    let tensor = refused(Request {
        tensor_parallel: Some(4),
        ..Request::default()
    });
    assert_eq!(
        tensor.to_string(),
        "tensor parallel 4 does not divide the 40 attention and 10 KV heads of phi-4; use one of 1, 2"
    );
    let invalid = |edit: fn(&mut Request)| {
        let unfit = refused(asking(edit));
        assert!(matches!(unfit, Unfit::InvalidOverride { .. }), "{unfit}");
    };
    invalid(|r| r.gpus_per_node = Some(5));
    invalid(|r| r.gpus_per_node = Some(0));
    invalid(|r| r.context = Some(0));
    invalid(|r| r.concurrency = Some(0));
    invalid(|r| r.utilization = Some(1.0));
    invalid(|r| r.utilization = Some(f64::NAN));
    invalid(|r| r.kv_element_bytes = Some(4));
    invalid(|r| r.pipeline_parallel = Some(41));
    let contradictory = Request {
        nodes: Some(2),
        gpus_per_node: Some(2),
        tensor_parallel: Some(1),
        pipeline_parallel: Some(1),
        ..Request::default()
    };
    let message = refused(contradictory).to_string();
    assert!(
        message.contains("nodes 2, GPUs per node 2, tensor parallel 1"),
        "{message}"
    );
}

#[test]
fn a_gpu_that_is_too_small_names_the_numbers_and_the_remedies() {
    let phi_3 = model("phi-3-mini-128k", 712, 393_216, 131_072, (32, 32, 32));
    let single = Model {
        distributed: false,
        ..phi_3
    };
    let long = Request {
        context: Some(65_536),
        ..Request::default()
    };
    let Err(unfit) = estimate(&single, &a10(1), &long) else {
        panic!("fits")
    };
    let message = unfit.to_string();
    assert!(message.contains("cannot be spread"), "{message}");

    let fixed = Request {
        nodes: Some(1),
        ..long
    };
    let message = estimate(&single, &a10(1), &fixed).unwrap_err().to_string();
    for part in [
        "24.00 KV cache",
        "22.50 usable × 0.82",
        "a context of at most",
        "41 GiB",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let bigger = gpus("NVIDIA RTX", 41, 1);
    assert!(
        estimate(&single, &bigger, &fixed).is_ok(),
        "the remedy helps"
    );
    let halved = Request {
        context: Some(40_000),
        nodes: Some(1),
        ..Request::default()
    };
    let message = estimate(&single, &a10(1), &halved).unwrap_err().to_string();
    assert!(message.contains("an fp8 KV cache"), "{message}");
    let remedied = Request {
        kv_element_bytes: Some(1),
        ..halved
    };
    assert!(
        estimate(&single, &a10(1), &remedied).is_ok(),
        "the remedy helps"
    );
}

#[test]
fn a_model_that_may_not_span_nodes_says_how_many_it_would_take() {
    let single = Model {
        distributed: false,
        ..llama_70b()
    };
    let unfit = estimate(&single, &a100(2), &Request::default()).unwrap_err();
    assert_eq!(
        unfit,
        Unfit::NeedsMoreNodes {
            model: "llama-3.3-70b".into(),
            nodes: 2,
            gpus_per_node: 2
        }
    );
    assert_eq!(
        layout(&fit(&single, &a100(4), &Request::default())),
        (1, 4, 4, 1)
    );
}

#[test]
fn mig_slices_work_alone() {
    let slices = gpus("NVIDIA-A100-SXM4-80GB-MIG-2g.20gb", 20, 3);
    let small = model("small", 800, 131_072, 8_192, (32, 8, 32));
    assert_eq!(
        layout(&fit(&small, &slices, &Request::default())),
        (1, 1, 1, 1)
    );
    let unfit = estimate(&phi_4(), &slices, &Request::default()).unwrap_err();
    assert!(matches!(unfit, Unfit::GpuTooSmall(_)), "{unfit}");
    assert!(!unfit.to_string().contains("more GPUs"), "{unfit}");
}

#[test]
fn missing_quantities_are_named() {
    let weightless = Model {
        weight_bytes: 0,
        ..phi_4()
    };
    let none = gpus("NVIDIA A100", 80, 0);
    let unknown = gpus("NVIDIA A100", 0, 1);
    for (model, gpus, part) in [
        (&weightless, &a100(1), "weight size"),
        (&phi_4(), &none, "GPU count"),
        (&phi_4(), &unknown, "GPU memory"),
    ] {
        let message = estimate(model, gpus, &Request::default())
            .unwrap_err()
            .to_string();
        assert!(message.contains(part), "{message}");
    }
}

fn offer(name: &str, gpus: Gpus, capability: u32, price: Option<u64>) -> Offer {
    Offer {
        instance_type: name.into(),
        gpus,
        compute_capability: capability,
        price_micro_dollars: price,
    }
}

#[test]
fn choices_are_ranked_by_the_price_of_the_gpus_taken_then_of_the_nodes_then_by_name() {
    let offers = [
        offer("four-a100", a100(4), 80, Some(14_692_000)),
        offer("two-a100", a100(2), 80, Some(7_346_000)),
        offer("dear-a100", a100(1), 80, Some(4_000_000)),
        offer("b-a100", a100(1), 80, Some(3_673_000)),
        offer("a-a100", a100(1), 80, Some(3_673_000)),
        offer("two-a10", a10(2), 86, Some(6_520_000)),
        offer("unpriced", a100(1), 80, None),
        offer("amd", gpus("AMD MI300X", 192, 8), 0, Some(1)),
        offer("kepler", gpus("NVIDIA K80", 80, 1), 37, Some(1)),
        offer("fraction", gpus("NVIDIA A10", 24, 0), 86, Some(1)),
    ];
    let ranked = rank(&phi_4(), &Request::default(), &offers);
    let names: Vec<_> = ranked
        .iter()
        .map(|choice| choice.instance_type.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "a-a100",
            "b-a100",
            "two-a100",
            "four-a100",
            "dear-a100",
            "two-a10"
        ]
    );
    let prices = |name: &str| {
        let choice = ranked
            .iter()
            .find(|choice| choice.instance_type == name)
            .unwrap();
        (
            choice.share_price_micro_dollars,
            choice.nodes_price_micro_dollars,
        )
    };
    assert_eq!(prices("four-a100"), (3_673_000, 14_692_000));
    assert_eq!(prices("two-a10"), (6_520_000, 6_520_000));
}

#[test]
fn cards_without_bfloat16_are_offered_with_a_warning() {
    let t4 = offer("t4", gpus("NVIDIA T4", 16, 1), 75, Some(526_000));
    let ranked = rank(
        &phi_4_mini(),
        &Request::default(),
        std::slice::from_ref(&t4),
    );
    assert!(
        ranked[0].estimate.warnings[0].contains("float16"),
        "{ranked:?}"
    );
    let quantized = Model {
        quantized: true,
        ..phi_4_mini()
    };
    let ranked = rank(&quantized, &Request::default(), &[t4]);
    assert!(ranked[0].estimate.warnings[0].contains("7.5"), "{ranked:?}");
}
