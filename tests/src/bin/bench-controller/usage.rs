//! What a process has used, from `/proc`.

use anyhow::{Context, Result};

/// Clock ticks per second of `/proc/PID/stat`; Linux shows all programs 100, whatever the kernel's own rate.
const TICKS: f64 = 100.0;

/// Processor time, user and system, in seconds.
pub(crate) fn cpu_seconds(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces: fields count from after it, the state being the first.
    let (_, fields) = text.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || -> Result<f64> {
        Ok(times
            .next()
            .context("no times in /proc/PID/stat")?
            .parse()?)
    };
    Ok((next()? + next()?) / TICKS)
}

/// A memory figure of `/proc/PID/status` in MiB: `VmRSS` for now, `VmHWM` for the peak.
pub(crate) fn memory_mib(pid: i32, field: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("no such memory figure")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::{cpu_seconds, memory_mib};

    #[test]
    fn this_process_has_a_peak_no_lower_than_its_present_size() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(memory_mib(pid, "VmRSS").unwrap() > 0.0);
        assert!(memory_mib(pid, "VmHWM").unwrap() >= memory_mib(pid, "VmRSS").unwrap());
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
    }
}
