//! Which type and zone a launch gets from the simulated cloud, or why none: script, quota, capacity. No clock, no I/O.

use super::draw;
use super::model::{Instance, Model};
use super::size::Size;
use crate::cloud::{LaunchError, LaunchRequest};
use crate::scenario::{Capacity, Effect, Limit, Pattern};

impl Model {
    /// Chooses type and zone: the first acceptable type that can be had, else the first one's refusal.
    ///
    /// # Errors
    /// [`LaunchError`] by quota, capacity or script.
    pub(super) fn allocate(
        &mut self,
        request: &LaunchRequest,
    ) -> Result<(Size, String, Option<Effect>), LaunchError> {
        let mut refusal = None;
        for name in &request.instance_types {
            match self.allocate_type(request, name) {
                Ok(found) => return Ok(found),
                Err(error) => {
                    refusal.get_or_insert(error);
                }
            }
        }
        Err(refusal.unwrap_or(LaunchError::NoInstanceType))
    }

    fn allocate_type(
        &mut self,
        request: &LaunchRequest,
        name: &str,
    ) -> Result<(Size, String, Option<Effect>), LaunchError> {
        let unknown = || LaunchError::UnknownInstanceType {
            instance_type: name.to_owned(),
        };
        let size = Size::named(name).ok_or_else(unknown)?;
        let zones = self.zones(request)?;
        let fault = self.scripted(&size.name);
        match fault {
            Some(Effect::LaunchError) => {
                return Err(LaunchError::CreateFailed {
                    instance_type: size.name,
                });
            }
            Some(Effect::Capacity) => {
                return Err(self.no_capacity(&size, &zones, Limited::Unstated));
            }
            Some(Effect::Quota) => {
                return Err(self.over_quota(&size, "of the subscription", String::new()));
            }
            _ => {}
        }
        self.check_quota(&size)?;
        let start = draw(self.scale.seed, &request.claim, "zone")
            % u64::try_from(zones.len()).unwrap_or(1).max(1);
        let start = usize::try_from(start).unwrap_or(0);
        let rotated = zones.iter().cycle().skip(start).take(zones.len());
        match rotated
            .into_iter()
            .find(|zone| self.zone_has_room(&size.name, zone))
        {
            Some(zone) => Ok((size, zone.clone(), fault)),
            None => Err(self.no_capacity(&size, &zones, Limited::Stated)),
        }
    }

    /// Zone labels of the region that the request accepts.
    fn zones(&self, request: &LaunchRequest) -> Result<Vec<String>, LaunchError> {
        let all = self
            .scenario
            .zones
            .0
            .iter()
            .map(|number| self.scenario.zone_label(number));
        let zones: Vec<String> = all
            .filter(|zone| request.zones.is_empty() || request.zones.contains(zone))
            .collect();
        if zones.is_empty() {
            return Err(LaunchError::NoSuchZone {
                zones: request.zones.join(", "),
                region: self.scenario.region.0.clone(),
            });
        }
        Ok(zones)
    }

    /// The first rule that hits this launch. Every rule whose type matches counts it, hit or not.
    fn scripted(&mut self, instance_type: &str) -> Option<Effect> {
        let mut effect = None;
        for (rule, hits) in self.scenario.faults.iter().zip(&mut self.hits) {
            if !rule.matches.instance_type.matches(instance_type) {
                continue;
            }
            *hits += 1;
            let nth = &rule.matches.nth;
            if effect.is_none()
                && (nth.is_empty() || nth.iter().any(|ordinal| ordinal.get() == *hits))
            {
                effect = Some(rule.effect);
            }
        }
        effect
    }

    fn check_quota(&self, size: &Size) -> Result<(), LaunchError> {
        for quota in self
            .scenario
            .quota
            .iter()
            .filter(|quota| quota.pattern.matches(&size.name))
        {
            let members = self.members(&quota.pattern);
            let (used, need, limit, unit) = match quota.limit {
                Limit::Nodes(limit) => (members.map(|_| 1).sum::<u64>(), 1, limit, "nodes"),
                Limit::Vcpus(limit) => (
                    members.map(|instance| u64::from(instance.size.vcpu)).sum(),
                    size.vcpu,
                    limit,
                    "vCPU",
                ),
            };
            if used + u64::from(need) > u64::from(limit) {
                return Err(self.over_quota(
                    size,
                    &quota.name,
                    format!(" (limit {limit} {unit}, {need} more needed)"),
                ));
            }
        }
        Ok(())
    }

    fn members<'model>(
        &'model self,
        pattern: &'model Pattern,
    ) -> impl Iterator<Item = &'model Instance> {
        self.instances
            .values()
            .filter(|instance| pattern.matches(&instance.size.name))
    }

    fn zone_has_room(&self, instance_type: &str, zone: &str) -> bool {
        self.limits_of(instance_type, zone).all(|entry| {
            let used = self
                .members(&entry.pattern)
                .filter(|instance| instance.zone == zone)
                .count();
            u64::try_from(used).unwrap_or(u64::MAX) < u64::from(entry.nodes)
        })
    }

    fn limits_of<'model>(
        &'model self,
        instance_type: &'model str,
        zone: &'model str,
    ) -> impl Iterator<Item = &'model Capacity> {
        self.scenario.capacity.iter().filter(move |entry| {
            let here = entry
                .zone
                .as_ref()
                .is_none_or(|number| self.scenario.zone_label(number) == zone);
            here && entry.pattern.matches(instance_type)
        })
    }

    fn no_capacity(&self, size: &Size, zones: &[String], limited: Limited) -> LaunchError {
        let least = |zone: &String| {
            self.limits_of(&size.name, zone)
                .map(|entry| u64::from(entry.nodes))
                .min()
        };
        let limit = match limited {
            Limited::Unstated => String::new(),
            Limited::Stated => {
                let total: u64 = zones.iter().filter_map(least).sum();
                format!(" (limit {total} nodes, all in use)")
            }
        };
        LaunchError::InsufficientCapacity {
            instance_type: size.name.clone(),
            place: zones.join(", "),
            limit,
        }
    }

    fn over_quota(&self, size: &Size, family: &str, limit: String) -> LaunchError {
        LaunchError::QuotaExceeded {
            instance_type: size.name.clone(),
            family: family.to_owned(),
            region: self.scenario.region.0.clone(),
            limit,
        }
    }
}

/// Whether a refusal for capacity can name a limit; a scripted one cannot.
enum Limited {
    Stated,
    Unstated,
}
