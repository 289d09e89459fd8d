//! The compute device, chosen at run time from what the binary was built with.

use burn::tensor::Device;

/// A device name that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("device {name}: {reason}")]
pub struct DeviceError {
    name: String,
    reason: String,
}

/// The device named `cpu`, `wgpu` or `cuda:N`.
///
/// # Errors
/// When the name is unknown, or the binary was built without that device.
pub fn open(name: &str) -> Result<Device, DeviceError> {
    let error = |reason: &str| {
        Err(DeviceError {
            name: name.to_owned(),
            reason: reason.to_owned(),
        })
    };
    match name.split(':').next().unwrap_or_default() {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(not(feature = "wgpu"))]
        "wgpu" => error("this binary was built without it; build with `--features wgpu`"),
        #[cfg(feature = "cuda")]
        "cuda" => match name.trim_start_matches("cuda").trim_start_matches(':') {
            "" => Ok(Device::cuda(0)),
            index => match index.parse::<usize>() {
                Ok(index) => Ok(Device::cuda(index)),
                Err(_) => error("expected cuda or cuda:N with a number N"),
            },
        },
        #[cfg(not(feature = "cuda"))]
        "cuda" => error("this binary was built without it; build with `--features cuda`"),
        _ => error("unknown; use cpu, wgpu or cuda:N"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cpu_is_always_there_and_a_typo_is_named() {
        assert!(open("cpu").is_ok());
        assert!(open("gpu").unwrap_err().to_string().contains("gpu"));
    }
}
