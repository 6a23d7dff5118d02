//! Choice of the next token.

/// How to choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest; higher is more even.
    pub temperature: f32,
    /// Only so many of the likeliest; 0 is all.
    pub top_k: usize,
    /// Only the likeliest that together have this share, 0 to 1.
    pub top_p: f32,
    /// Only those at least this likely, relative to the likeliest; 0 to 1.
    pub min_p: f32,
    /// Divides the logits of tokens that occurred; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of generated tokens.
    pub presence_penalty: f32,
    /// Subtracted for each time a token was generated.
    pub frequency_penalty: f32,
    /// The same seed gives the same answer.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

/// Chooses the tokens of one answer.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
}

impl Sampler {
    /// A sampler at its seed.
    #[must_use]
    pub fn new(sampling: Sampling) -> Self {
        let state = sampling.seed;
        Self { sampling, state }
    }

    /// Chooses from the logits of all tokens. `prompt` and `generated` are the tokens so far, for the penalties. Logits
    /// that are not numbers are never chosen.
    pub fn choose(&mut self, logits: &mut [f32], prompt: &[u32], generated: &[u32]) -> u32 {
        self.penalise(logits, prompt, generated);
        if self.sampling.temperature <= 0.0 {
            return likeliest(logits);
        }
        let mut candidates = self.candidates(logits);
        let share = self.uniform();
        let total: f32 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut left = share * total;
        let last = candidates.last().map_or(0, |(token, _)| *token);
        candidates.retain(|(_, weight)| *weight > 0.0);
        for (token, weight) in candidates {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        last
    }

    fn penalise(&self, logits: &mut [f32], prompt: &[u32], generated: &[u32]) {
        let Sampling {
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            ..
        } = self.sampling;
        if (repetition - 1.0).abs() > f32::EPSILON {
            let mut seen: Vec<u32> = prompt.iter().chain(generated).copied().collect();
            seen.sort_unstable();
            seen.dedup();
            for token in seen {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = if *logit > 0.0 {
                        *logit / repetition
                    } else {
                        *logit * repetition
                    };
                }
            }
        }
        if presence.abs() > 0.0 || frequency.abs() > 0.0 {
            let mut sorted = generated.to_vec();
            sorted.sort_unstable();
            for same in sorted.chunk_by(|a, b| a == b) {
                let token = same.first().map_or(0, |token| *token as usize);
                if let Some(logit) = logits.get_mut(token) {
                    *logit -= presence + frequency * same.len() as f32;
                }
            }
        }
    }

    /// Tokens that may be chosen, likeliest first, with weights relative to the likeliest.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let largest = logits
            .iter()
            .copied()
            .filter(|l| !l.is_nan())
            .fold(f32::NEG_INFINITY, f32::max);
        let weigh = |logit: &f32| {
            let weight = ((logit - largest) / self.sampling.temperature).exp();
            if weight.is_nan() { 0.0 } else { weight }
        };
        let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().map(weigh)).collect();
        all.retain(|(_, weight)| *weight > 0.0 && *weight >= self.sampling.min_p);
        let likelier = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let top = self.sampling.top_k;
        if top > 0 && top < all.len() {
            all.select_nth_unstable_by(top - 1, likelier);
            all.truncate(top);
        }
        if self.sampling.top_p < 1.0 {
            all.sort_unstable_by(likelier);
            let limit = self.sampling.top_p * all.iter().map(|(_, weight)| weight).sum::<f32>();
            let mut sum = 0.0;
            let within = all.iter().take_while(|(_, weight)| {
                let before = sum;
                sum += weight;
                before < limit
            });
            let count = within.count().max(1);
            all.truncate(count);
        }
        all
    }

    /// A number from 0 to 1, 1 excluded, by SplitMix64.
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bits = ((mixed ^ (mixed >> 31)) >> 40) as u32;
        bits as f32 / 16_777_216.0
    }
}

/// The token with the largest logit; of equal ones the first.
#[must_use]
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in (0..).zip(logits) {
        if *logit > best.1 {
            best = (token, *logit);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chosen(sampling: Sampling, logits: &[f32]) -> u32 {
        Sampler::new(sampling).choose(&mut logits.to_vec(), &[], &[])
    }

    #[test]
    fn without_temperature_the_likeliest_is_taken_and_of_equals_the_first() {
        let greedy = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        assert_eq!(chosen(greedy, &[0.0, 3.0, 3.0, f32::NAN]), 1);
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let mut sampler = Sampler::new(Sampling::default());
        let mut counts = [0_u32; 2];
        for _ in 0..4000 {
            let token = sampler.choose(&mut [0.0, 3.0_f32.ln()], &[], &[]);
            counts[token as usize] += 1;
        }
        assert!((2850..3150).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn penalties_push_repetitions_away() {
        let sampling = Sampling {
            temperature: 0.0,
            frequency_penalty: 1.0,
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(sampling);
        assert_eq!(sampler.choose(&mut [2.0, 1.5], &[], &[0]), 1);
        assert_eq!(sampler.choose(&mut [2.0, 1.5], &[0], &[]), 0);
    }

    proptest! {
        #[test]
        fn no_setting_chooses_what_it_excludes(
            logits in prop::collection::vec(-50.0_f32..50.0, 1..40),
            top_k in 0_usize..6,
            top_p in 0.0_f32..1.2,
            temperature in 0.0_f32..3.0,
            seed: u64,
        ) {
            let sampling = Sampling { temperature, top_k, top_p, seed, ..Sampling::default() };
            let token = chosen(sampling.clone(), &logits);
            let logit = logits[token as usize];
            let better = logits.iter().filter(|other| **other > logit).count();
            prop_assert!(top_k == 0 || better < top_k);
            prop_assert_eq!(chosen(sampling, &logits), token);
        }
    }
}
