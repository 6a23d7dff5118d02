//! What must hold for every model, card and request.

use kaito_placement::estimate::compatibility::{NodeGpus, Preset, Shape, kaito_nodes};
use kaito_placement::estimate::{
    Attention, Estimate, Gpus, Model, Offer, Request, estimate, rank, usable_memory_bytes,
};
use proptest::option;
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

prop_compose! {
    fn models()(
        weight_bytes in GIB..800 * GIB,
        kv_bytes_per_token in prop_oneof![Just(0), 1u64..1_000_000],
        context_limit in prop_oneof![Just(0u32), 1u32..1_100_000],
        attention_heads in prop_oneof![Just(0u32), 1u32..130],
        kv_heads in 0u32..65,
        layers in 0u32..100,
        attention in prop_oneof![Just(Attention::Heads), Just(Attention::Latent)],
        quantized in any::<bool>(),
        distributed in any::<bool>(),
    ) -> Model {
        Model {
            name: "m".into(),
            weight_bytes,
            kv_bytes_per_token,
            context_limit,
            attention_heads,
            kv_heads,
            layers,
            attention,
            quantized,
            distributed,
        }
    }
}

fn products() -> impl Strategy<Value = String> {
    let known = [
        "NVIDIA T4",
        "NVIDIA A10",
        "NVIDIA A100",
        "NVIDIA H100",
        "NVIDIA H200",
        "B200",
    ];
    prop::sample::select(known.to_vec()).prop_map(String::from)
}

prop_compose! {
    fn cards()(model in products(), count in 1u32..17, memory_bytes in 8 * GIB..300 * GIB) -> Gpus {
        Gpus { model, count, memory_bytes }
    }
}

prop_compose! {
    /// Requests that leave the layout to the search.
    fn requests()(
        context in option::of(1u32..300_000),
        concurrency in option::of(1u32..40),
        kv_element_bytes in option::of(1u32..3),
        utilization in option::of(0.1f64..0.99),
        data_parallel in option::weighted(0.2, 1u32..4),
    ) -> Request {
        Request {
            context,
            concurrency,
            kv_element_bytes,
            utilization,
            data_parallel,
            ..Request::default()
        }
    }
}

/// Numbers of any size, small ones and bounds more often.
fn any_u32() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..20, Just(u32::MAX), any::<u32>()]
}

fn any_u64() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..20, Just(u64::MAX), any::<u64>(), GIB..1000 * GIB]
}

prop_compose! {
    fn wild_models()(
        bytes in (any_u64(), any_u64()),
        counts in (any_u32(), any_u32(), any_u32(), any_u32()),
        latent in any::<bool>(),
        quantized in any::<bool>(),
        distributed in any::<bool>(),
    ) -> Model {
        Model {
            name: "wild".into(),
            weight_bytes: bytes.0,
            kv_bytes_per_token: bytes.1,
            context_limit: counts.0,
            attention_heads: counts.1,
            kv_heads: counts.2,
            layers: counts.3,
            attention: if latent { Attention::Latent } else { Attention::Heads },
            quantized,
            distributed,
        }
    }
}

prop_compose! {
    fn wild_requests()(
        sizes in (option::of(any_u32()), option::of(any_u32()), option::of(any_u32())),
        nodes in (option::of(any_u32()), option::of(any_u32())),
        parallel in (option::of(any_u32()), option::of(any_u32()), option::of(any_u32())),
        utilization in option::of(prop_oneof![0.1f64..0.99, any::<f64>()]),
    ) -> Request {
        Request {
            context: sizes.0,
            concurrency: sizes.1,
            kv_element_bytes: sizes.2,
            utilization,
            gpus_per_node: nodes.0,
            nodes: nodes.1,
            tensor_parallel: parallel.0,
            pipeline_parallel: parallel.1,
            data_parallel: parallel.2,
        }
    }
}

fn gpus_taken(estimate: &Estimate) -> u64 {
    u64::from(estimate.nodes) * u64::from(estimate.gpus_per_node)
}

/// Whether the chosen layout, and no other, fits with one sequence of that context.
fn holds(model: &Model, gpus: &Gpus, request: &Request, chosen: &Estimate, context: u32) -> bool {
    let fixed = Request {
        context: Some(context),
        concurrency: Some(1),
        gpus_per_node: Some(chosen.gpus_per_node),
        nodes: Some(chosen.nodes),
        tensor_parallel: Some(chosen.tensor_parallel),
        pipeline_parallel: Some(chosen.pipeline_parallel),
        ..request.clone()
    };
    estimate(model, gpus, &fixed).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn a_fit_stays_within_what_the_engine_may_take(
        model in models(), gpus in cards(), request in requests(),
    ) {
        if let Ok(fit) = estimate(&model, &gpus, &request) {
            let split = fit.memory_per_gpu;
            let sum = split.weights + split.kv_cache + split.overhead + split.free;
            let available = usable_memory_bytes(&gpus) as f64 * fit.utilization;
            prop_assert!(sum as f64 <= available + usable_memory_bytes(&gpus) as f64 * 1e-6);
            prop_assert!(usable_memory_bytes(&gpus) <= gpus.memory_bytes);
            let ranks = u64::from(fit.tensor_parallel)
                * u64::from(fit.pipeline_parallel)
                * u64::from(fit.data_parallel);
            prop_assert_eq!(ranks, gpus_taken(&fit));
            prop_assert!(split.weights.saturating_mul(ranks) >= model.weight_bytes);
            prop_assert!(fit.gpus_per_node <= gpus.count);
            if model.attention_heads > 0 {
                prop_assert_eq!(model.attention_heads % fit.tensor_parallel, 0);
            }
            prop_assert!(model.distributed || fit.nodes == 1);
        }
    }

    #[test]
    fn more_memory_never_takes_more_gpus(
        model in models(), gpus in cards(), request in requests(), more in 0u64..100 * GIB,
    ) {
        if let Ok(before) = estimate(&model, &gpus, &request) {
            let bigger = Gpus { memory_bytes: gpus.memory_bytes + more, ..gpus };
            let after = estimate(&model, &bigger, &request);
            prop_assert!(after.is_ok_and(|after| gpus_taken(&after) <= gpus_taken(&before)));
        }
    }

    #[test]
    fn a_longer_context_never_takes_fewer_gpus(
        model in models(), gpus in cards(), request in requests(), more in 1u32..200_000,
    ) {
        let context = request.context.unwrap_or(1);
        let short = Request { context: Some(context), ..request };
        let long = Request { context: Some(context + more), ..request };
        if let Ok(after) = estimate(&model, &gpus, &long) {
            let before = estimate(&model, &gpus, &short);
            prop_assert!(before.is_ok_and(|before| gpus_taken(&before) <= gpus_taken(&after)));
        }
    }

    #[test]
    fn the_longest_context_fits_and_one_block_more_does_not(
        model in models(), gpus in cards(), request in requests(),
    ) {
        // Data-parallel replicas each take one sequence, so that one of them decides.
        let request = Request { data_parallel: None, ..request };
        if let Ok(fit) = estimate(&model, &gpus, &request) {
            let limit = if model.context_limit == 0 { u32::MAX } else { model.context_limit };
            prop_assert!(fit.max_context >= fit.context.min(limit));
            prop_assert!(holds(&model, &gpus, &request, &fit, fit.max_context));
            let capped = fit.max_context == model.context_limit
                || (model.context_limit == 0 && fit.max_context >= 16 << 20);
            prop_assert!(capped || !holds(&model, &gpus, &request, &fit, fit.max_context + 16));
            prop_assert!(model.context_limit == 0 || fit.max_context <= model.context_limit);
        }
    }

    #[test]
    fn the_attainable_concurrency_covers_what_was_asked(
        model in models(), gpus in cards(), request in requests(),
    ) {
        if let Ok(fit) = estimate(&model, &gpus, &request) {
            prop_assert!(fit.max_concurrency >= request.concurrency.unwrap_or(1));
        }
    }

    #[test]
    fn the_same_question_gets_the_same_answer(
        model in models(), gpus in cards(), request in requests(),
    ) {
        prop_assert_eq!(estimate(&model, &gpus, &request), estimate(&model, &gpus, &request));
    }

    #[test]
    fn the_order_of_offers_does_not_matter(
        model in models(), cards in prop::collection::vec((cards(), 1u64..9), 1..6),
    ) {
        let offers: Vec<_> = cards.into_iter().enumerate().map(|(number, (gpus, price))| Offer {
            instance_type: format!("type-{number}"),
            gpus,
            compute_capability: 80,
            price_micro_dollars: Some(price),
        }).collect();
        let reversed: Vec<_> = offers.iter().rev().cloned().collect();
        let request = Request::default();
        prop_assert_eq!(rank(&model, &request, &offers), rank(&model, &request, &reversed));
    }

    #[test]
    fn no_number_makes_it_panic(
        model in wild_models(),
        memory in any_u64(),
        count in any_u32(),
        request in wild_requests(),
        price in any_u64(),
    ) {
        let gpus = Gpus { model: "NVIDIA B200".into(), count, memory_bytes: memory };
        match estimate(&model, &gpus, &request) {
            Ok(fit) => prop_assert!(!fit.explanation.is_empty()),
            Err(unfit) => prop_assert!(unfit.to_string().len() > 20),
        }
        let offer = Offer {
            instance_type: "wild".into(),
            gpus,
            compute_capability: 100,
            price_micro_dollars: Some(price),
        };
        prop_assert!(rank(&model, &request, &[offer]).len() <= 1);
        let preset = Preset {
            weight_bytes: model.weight_bytes,
            kv_bytes_per_token: model.kv_bytes_per_token,
            distributed: model.distributed,
        };
        let shape = Shape::InstanceType {
            name: "wild",
            gpus: Some(NodeGpus { count, memory_bytes: memory }),
        };
        let counted = kaito_nodes(Some(&preset), &shape, request.nodes, request.context);
        prop_assert!(counted.is_err() || count == 0 || memory == 0 || counted.is_ok_and(|nodes| nodes >= 1));
    }
}
