use std::collections::HashMap;

use fitup_models::weights::{self, HostTensor, Precision, TensorInfo, TensorMap};

use crate::{fixture, scratch};

fn tensor(shape: &[usize], values: &[f32]) -> HostTensor {
    HostTensor {
        shape: shape.to_vec(),
        values: values.to_vec(),
    }
}

/// What the script in the folder's README saved, without the integers.
fn saved() -> TensorMap {
    let big: Vec<f32> = (0..12).map(|i| i as f32 / 8.0).collect();
    let transposed: Vec<f32> = (0..12).map(|i| big[i % 3 * 4 + i / 3]).collect();
    let shared = [1.5, -2.5, 3.5, 4.5];
    [
        ("single", tensor(&[3, 4], &big)),
        ("half", tensor(&[3], &[1.0, -0.5, 65504.0])),
        // 3e38 in the eight bits of bfloat16, as PyTorch prints it.
        ("brain", tensor(&[3], &[1.0, -0.5, 3.004_055_3e38])),
        ("double", tensor(&[2], &[0.1, -0.2])),
        ("scalar", tensor(&[], &[0.07])),
        ("empty", tensor(&[0, 3], &[])),
        ("transposed", tensor(&[4, 3], &transposed)),
        (
            "strided",
            tensor(&[3, 2], &[0.125, 0.375, 0.625, 0.875, 1.125, 1.375]),
        ),
        ("expanded", tensor(&[2, 3], &[7.0, 7.0, 7.0, 8.0, 8.0, 8.0])),
        ("tied.a", tensor(&[4], &shared)),
        ("tied.b", tensor(&[4], &shared)),
        ("tail", tensor(&[2], &shared[2..])),
        ("parameter", tensor(&[1], &[9.0])),
    ]
    .into_iter()
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .collect()
}

#[test]
fn both_containers_at_the_top_under_wrappers_and_with_a_prefix() {
    for name in [
        "zip.pth",
        "legacy.pth",
        "nested.pth",
        "nested_legacy.pth",
        "protocol4.ckpt",
    ] {
        let (tensors, metadata) = weights::read(&fixture(name)).unwrap();
        assert_eq!(tensors, saved(), "{name}");
        assert!(metadata.is_empty());
    }
}

#[test]
fn a_module_and_a_torchscript_archive_give_the_same_tensors() {
    let (module, _) = weights::read(&fixture("module.pth")).unwrap();
    let names: Vec<&str> = module.keys().map(String::as_str).collect();
    let norm = ["1.bias", "1.running_mean", "1.running_var", "1.weight"];
    assert_eq!(names, [&["0.bias", "0.weight"][..], &norm].concat());
    assert_eq!(
        module["0.weight"],
        tensor(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    );
    assert_eq!(module["0.bias"], tensor(&[2], &[0.5, -0.5]));
    let (script, _) = weights::read(&fixture("torchscript.pt")).unwrap();
    assert_eq!(script, module);
}

#[test]
fn listing_shows_types_and_integers() {
    for name in ["zip.pth", "legacy.pth", "nested.pth"] {
        let (listed, _) = weights::list(&fixture(name)).unwrap();
        let find = |wanted: &str| {
            let found = listed.iter().find(|info| info.name == wanted);
            let TensorInfo { shape, element, .. } = found.unwrap().clone();
            (shape, element)
        };
        assert_eq!(listed.len(), 15, "{name}");
        assert_eq!(find("ids"), (vec![1, 4], "I64".into()));
        assert_eq!(find("flags"), (vec![2], "BOOL".into()));
        assert_eq!(find("brain"), (vec![3], "BF16".into()));
        assert_eq!(find("double"), (vec![2], "F64".into()));
        assert_eq!(find("scalar"), (vec![], "F32".into()));
    }
}

#[test]
fn the_content_decides_not_the_name() {
    let renamed = scratch("a_zip.safetensors");
    std::fs::copy(fixture("zip.pth"), &renamed).unwrap();
    assert_eq!(weights::read(&renamed).unwrap().0, saved());
    let renamed = scratch("safetensors.pth");
    let metadata = HashMap::from([("a".to_owned(), "b".to_owned())]);
    weights::write(&renamed, &saved(), metadata.clone(), Precision::F32).unwrap();
    assert_eq!(
        weights::read(&renamed).unwrap(),
        (saved(), metadata.clone())
    );
    let (listed, found) = weights::list(&renamed).unwrap();
    assert_eq!((listed.len(), found), (saved().len(), metadata));
}

#[test]
fn what_is_written_is_read_back() {
    for (name, key) in [("top.pth", None), ("model.pth", Some("model"))] {
        let file = scratch(name);
        weights::write_pytorch(&file, &saved(), key, Precision::F32).unwrap();
        assert_eq!(weights::read(&file).unwrap().0, saved(), "{name}");
    }
    let file = scratch("half.pth");
    let mut small = saved();
    small.retain(|name, _| name != "brain"); // beyond the range of 16-bit floats
    weights::write_pytorch(&file, &small, Some("model"), Precision::F16).unwrap();
    for info in weights::list(&file).unwrap().0 {
        assert_eq!(info.element, "F16", "{}", info.name);
    }
    let (read, _) = weights::read(&file).unwrap();
    assert_eq!(read["single"], small["single"]);
    assert!((read["scalar"].values[0] - 0.07).abs() < 3e-5);
}

#[test]
fn positions_are_resized_as_pytorch_does() {
    let (recorded, _) = weights::read(&fixture("positions.pth")).unwrap();
    for grid in [2, 5, 7] {
        let mut tensors = recorded.clone();
        let line = weights::fit_positions(&mut tensors, "pos_embed", grid).unwrap();
        let want = format!("pos_embed: 3 x 3 patches resized to {grid} x {grid} (bicubic)");
        assert_eq!(line.unwrap(), want);
        let (got, want) = (&tensors["pos_embed"], &recorded[&format!("to_{grid}")]);
        assert_eq!(got.shape, want.shape);
        assert_eq!(got.values[..4], recorded["pos_embed"].values[..4], "CLS");
        for (got, want) in got.values.iter().zip(&want.values) {
            assert!((got - want).abs() < 2e-6, "{grid}: {got} {want}");
        }
    }
    let mut tensors = recorded.clone();
    let line = weights::fit_positions(&mut tensors, "pos_embed", 3).unwrap();
    assert_eq!((line, &tensors), (None, &recorded));
    let missing = weights::fit_positions(&mut tensors, "position", 3);
    assert!(missing.unwrap_err().to_string().contains("position"));
    tensors.get_mut("pos_embed").unwrap().shape = vec![1, 20, 2];
    let uneven = weights::fit_positions(&mut tensors, "pos_embed", 3);
    let uneven = uneven.unwrap_err().to_string();
    assert!(
        uneven.contains("expected [1, 10, 2], got [1, 20, 2]"),
        "{uneven}"
    );
}
