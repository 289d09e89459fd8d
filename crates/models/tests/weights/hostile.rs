//! Files made to run code, to fill the memory or to read what is not theirs. Each is refused, and
//! the message names the file and the thing.

use std::io::Write;

use fitup_models::weights;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{fixture, scratch};

struct Entry {
    name: &'static str,
    /// As it lies in the file.
    data: Vec<u8>,
    /// 0: stored, 8: deflated.
    method: u16,
    /// Checksum that the directory claims.
    crc: u32,
    /// Length that the directory claims.
    size: u32,
}

fn stored(name: &'static str, data: &[u8]) -> Entry {
    Entry {
        name,
        data: data.to_vec(),
        method: 0,
        crc: crc32fast::hash(data),
        size: data.len() as u32,
    }
}

fn deflated(name: &'static str, data: &[u8]) -> Entry {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    Entry {
        data: encoder.finish().unwrap(),
        method: 8,
        ..stored(name, data)
    }
}

/// A zip file without large-file records.
fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let start = out.len() as u32;
        let mut fields = vec![20, 0, 0, 0];
        fields.extend(entry.method.to_le_bytes());
        fields.extend([0; 4]);
        fields.extend(entry.crc.to_le_bytes());
        fields.extend((entry.data.len() as u32).to_le_bytes());
        fields.extend(entry.size.to_le_bytes());
        fields.extend((entry.name.len() as u16).to_le_bytes());
        fields.extend([0; 2]);
        out.extend(b"PK\x03\x04");
        out.extend(&fields);
        out.extend(entry.name.as_bytes());
        out.extend(&entry.data);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&fields);
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([(entries.len() as u16).to_le_bytes(); 2].concat());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// A checkpoint with this description and one storage of four float32.
fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    zip(&[stored("a/data.pkl", pickle), stored("a/data/0", &[0; 16])])
}

fn text(text: &str) -> Vec<u8> {
    let mut out = vec![b'X'];
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
    out
}

fn numbers(values: &[i64]) -> Vec<u8> {
    let mut out = vec![b'('];
    for value in values {
        out.extend([0x8a, 8]);
        out.extend(value.to_le_bytes());
    }
    out.push(b't');
    out
}

/// A pickled tensor over storage `0` of float32.
fn tensor(elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let number = |value: i64| [&[0x8a, 8][..], &value.to_le_bytes()].concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        number(elements),
        b"tQ".to_vec(),
        number(offset),
        numbers(shape),
        numbers(strides),
        b"\x89Nt".to_vec(),
        b"R".to_vec(),
    ]
    .concat()
}

/// A state dict of one tensor called `w`.
fn state_dict(tensor: &[u8]) -> Vec<u8> {
    [b"\x80\x02}", text("w").as_slice(), tensor, b"s."].concat()
}

#[track_caller]
fn refused(name: &str, bytes: &[u8], what: &str) {
    let file = scratch(name);
    std::fs::write(&file, bytes).unwrap();
    let read = weights::read(&file).map(|(tensors, _)| tensors.len());
    let message = read.unwrap_err().to_string();
    assert!(message.contains(name), "no file name in {message:?}");
    assert!(message.contains(what), "no {what:?} in {message:?}");
    assert!(message.len() < 500, "{message:?}");
}

#[test]
fn an_honest_file_made_by_these_parts_is_read() {
    let file = scratch("honest.pth");
    std::fs::write(&file, checkpoint(&state_dict(&tensor(4, 1, &[3], &[1])))).unwrap();
    let (tensors, _) = weights::read(&file).unwrap();
    assert_eq!(tensors["w"].shape, [3]);
}

#[test]
fn calls_are_refused_by_name() {
    let shell = text("true");
    let shell = shell.as_slice();
    for (name, pickle, what) in [
        (
            "system.pth",
            [b"\x80\x02cos\nsystem\n", shell, b"\x85R."].concat(),
            "refuses to run os.system",
        ),
        (
            "eval.pth",
            [b"\x80\x02cbuiltins\neval\n", shell, b"\x85R."].concat(),
            "refuses to run builtins.eval",
        ),
        (
            "stack_global.pth",
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.".to_vec(),
            "refuses to run os.system",
        ),
        (
            // The right module, and a way out of it.
            "dotted.pth",
            b"\x80\x04\x8c\x0ctorch._utils\x8c\x24_rebuild_tensor_v2.__globals__.clear\x93)R."
                .to_vec(),
            "refuses to run torch._utils._rebuild_tensor_v2.__globals__.clear",
        ),
        (
            "inst.pth",
            [b"\x80\x02(", shell, b"ios\nsystem\n."].concat(),
            "refuses to run os.system",
        ),
        (
            "obj.pth",
            [b"\x80\x02(cos\nsystem\n", shell, b"o."].concat(),
            "refuses to run os.system",
        ),
        (
            "setstate.pth",
            [
                b"\x80\x02cmodule\nClass\n)\x81}",
                text("__setstate__").as_slice(),
                b"cos\nsystem\nsb",
                shell,
                b"b.",
            ]
            .concat(),
            "refuses to run os.system as __setstate__",
        ),
        (
            "patch.pth",
            [b"\x80\x02cos\nsystem\n}", shell, b"Nsb."].concat(),
            "refuses to run a change of os.system",
        ),
        (
            "partial_call.pth",
            b"\x80\x02cfunctools\npartial\ncos\nsystem\n\x85R.".to_vec(),
            "refuses to run functools.partial",
        ),
        (
            "extension.pth",
            b"\x80\x02\x82\x01.".to_vec(),
            "refuses to run a function by extension code",
        ),
        (
            "result_of_a_call.pth",
            b"\x80\x02ccollections\nOrderedDict\n)R)R.".to_vec(),
            "refuses to run a value that is no function",
        ),
    ] {
        refused(name, &checkpoint(&pickle), what);
    }
    // The old container goes through the same interpreter.
    let whole = std::fs::read(fixture("legacy.pth")).unwrap();
    let hostile = [&whole[..18], b"\x80\x02cos\nsystem\n)R."].concat();
    refused("legacy_system.pth", &hostile, "refuses to run os.system");
}

#[test]
fn unknown_classes_are_kept_closed() {
    let pickle = [
        b"\x80\x02}(",
        text("model").as_slice(),
        b"}",
        &text("w"),
        &tensor(4, 0, &[2, 2], &[2, 1]),
        b"s",
        &text("config"),
        b"cos\nPathLike\n)\x81}",
        &text("name"),
        b"Nsbu.",
    ]
    .concat();
    // Beside it, a dictionary under a wrapper's name that holds no tensors.
    let wrapped = [
        b"\x80\x02}(",
        text("model").as_slice(),
        b"}",
        &text("width"),
        b"K\x04s",
        &text("state_dict"),
        b"}",
        &text("w"),
        &tensor(4, 0, &[4], &[1]),
        b"su.",
    ]
    .concat();
    let file = scratch("settings.pth");
    std::fs::write(&file, checkpoint(&wrapped)).unwrap();
    assert_eq!(weights::read(&file).unwrap().0["w"].shape, [4]);
    let file = scratch("closed.pth");
    std::fs::write(&file, checkpoint(&pickle)).unwrap();
    assert_eq!(weights::read(&file).unwrap().0["w"].shape, [2, 2]);
}

#[test]
fn deflated_entries_are_read() {
    let pickle = state_dict(&tensor(4, 0, &[4], &[1]));
    let values: Vec<u8> = [1.5f32, -2.5, 1.5, -2.5]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let file = scratch("deflated.pth");
    let entries = [
        deflated("a/data.pkl", &pickle),
        deflated("a/byteorder", b"little"),
        deflated("a/data/0", &values),
    ];
    std::fs::write(&file, zip(&entries)).unwrap();
    let (tensors, _) = weights::read(&file).unwrap();
    assert_eq!(tensors["w"].values, [1.5, -2.5, 1.5, -2.5]);
    assert_eq!(weights::list(&file).unwrap().0[0].shape, [4]);
}

#[test]
fn zip_bombs_are_refused() {
    let pickle = state_dict(&tensor(4, 0, &[4], &[1]));
    let with = |data: Entry| zip(&[stored("a/data.pkl", &pickle), data]);

    // By what they claim.
    let mut claims = stored("a/data.pkl", &[3, 0]);
    (claims.method, claims.size) = (8, u32::MAX - 1);
    refused(
        "bomb_pickle.pth",
        &zip(&[claims]),
        "a/data.pkl claims to expand from 2 bytes to 4294967294",
    );
    let mut claims = stored("a/data/0", &[3, 0]);
    (claims.method, claims.size) = (8, u32::MAX - 1);
    refused(
        "bomb_storage.pth",
        &with(claims),
        "a/data/0 claims to expand",
    );
    // A ratio that deflate has, beyond what a description may be long.
    let mut long = deflated("a/data.pkl", &vec![0; 1 << 20]);
    long.size = 1 << 30;
    long.data.resize(2 << 20, 0);
    refused("bomb_description.pth", &zip(&[long]), "too large");
    // Tensors that fill many times the file.
    let zeros = vec![0; 8 << 20];
    let elements = (zeros.len() / 4) as i64;
    let described = state_dict(&tensor(elements, 0, &[elements], &[1]));
    let bomb = [
        stored("a/data.pkl", &described),
        deflated("a/data/0", &zeros),
    ];
    refused("bomb_zeros.pth", &zip(&bomb), "would fill 8388608 bytes");

    // By what comes out.
    let mut more = deflated("a/data/0", &[0; 5000]);
    more.size = 16;
    refused(
        "bomb_more.pth",
        &with(more),
        "a/data/0 expands beyond the 16 bytes it claims",
    );
    let mut less = deflated("a/data/0", &[0; 8]);
    less.size = 16;
    refused(
        "bomb_less.pth",
        &with(less),
        "a/data/0 expands to 8 bytes but claims 16",
    );
}

#[test]
fn damaged_and_unknown_compression_is_refused() {
    let pickle = state_dict(&tensor(4, 0, &[4], &[1]));
    let with = |data: Entry| zip(&[stored("a/data.pkl", &pickle), data]);
    let mut cut = deflated(
        "a/data/0",
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    );
    cut.data.truncate(cut.data.len() / 2);
    refused("deflate_cut.pth", &with(cut), "a/data/0 does not expand");
    let mut garbage = stored("a/data/0", &[0xff; 16]);
    garbage.method = 8;
    refused(
        "deflate_garbage.pth",
        &with(garbage),
        "a/data/0 does not expand",
    );
    let mut sum = deflated("a/data/0", &[0; 16]);
    sum.crc ^= 1;
    refused("deflate_sum.pth", &with(sum), "do not match their checksum");
    let mut other = stored("a/data/0", &[0; 16]);
    other.method = 14;
    refused(
        "lzma.pth",
        &with(other),
        "a/data/0 is compressed by method 14",
    );
}

#[test]
fn sizes_that_lie_are_seen_before_anything_is_allocated() {
    let pickle = state_dict(&tensor(1 << 60, 0, &[4], &[1]));
    refused(
        "storage_lies.pth",
        &checkpoint(&pickle),
        "storage 0 has 16 bytes, 4611686018427387904 are declared",
    );
    let mut data = stored("a/data/0", &[0; 16]);
    data.size = u32::MAX - 1;
    let pickle = state_dict(&tensor(4, 0, &[4], &[1]));
    refused(
        "entry_lies.pth",
        &zip(&[stored("a/data.pkl", &pickle), data]),
        "a/data/0 is stored in 16 bytes but claims 4294967294",
    );
    let mut bytes = checkpoint(&pickle);
    let at = bytes.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    bytes[at + 20..at + 28].fill(0x7f);
    refused(
        "directory_lies.pth",
        &bytes,
        "reaches over the end of the file",
    );
    let twice = [stored("a/data.pkl", &pickle), stored("a/data.pkl", &pickle)];
    refused(
        "twice.pth",
        &zip(&twice),
        "two entries are called a/data.pkl",
    );
    refused(
        "missing.pth",
        &zip(&[stored("a/data.pkl", &pickle)]),
        "no entry a/data/0",
    );
    refused(
        "text_length.pth",
        &checkpoint(b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7f"),
        "too large",
    );
    refused(
        "short_text.pth",
        &checkpoint(b"\x80\x02X\xff\xff\0\0abc"),
        "the pickle ends early",
    );
}

#[test]
fn views_beyond_their_storage_are_refused() {
    for (name, tensor) in [
        ("stride.pth", tensor(4, 0, &[4], &[2])),
        ("offset.pth", tensor(4, 1, &[2, 2], &[2, 1])),
        ("overflow.pth", tensor(4, 0, &[1 << 62, 1 << 62], &[1, 1])),
        ("stride_overflow.pth", tensor(4, 0, &[3], &[i64::MAX])),
        ("rank.pth", tensor(4, 0, &[2, 2], &[1])),
    ] {
        refused(name, &checkpoint(&state_dict(&tensor)), "tensor w: shape");
    }
    for (name, tensor) in [
        ("negative_offset.pth", tensor(4, -1, &[4], &[1])),
        ("negative_stride.pth", tensor(4, 3, &[4], &[-1])),
        ("negative_shape.pth", tensor(4, 0, &[-4], &[1])),
    ] {
        let what = "a tensor of unknown arguments";
        refused(name, &checkpoint(&state_dict(&tensor)), what);
    }
    let expanded = tensor(4, 0, &[1 << 40], &[0]);
    refused(
        "expanded.pth",
        &checkpoint(&state_dict(&expanded)),
        "would fill 4398046511104 bytes",
    );
}

#[test]
fn containers_inside_themselves_end() {
    for (name, pickle, what) in [
        (
            "model_in_itself.pth",
            [b"\x80\x02}q\0", text("model").as_slice(), b"h\0s."].concat(),
            "inside themselves",
        ),
        (
            "list_in_itself.pth",
            b"\x80\x02]q\0h\0a.".to_vec(),
            "holds no state dict",
        ),
        (
            "module_in_itself.pth",
            [
                b"\x80\x02c__torch__.M\nM\n)\x81q\0}(",
                text("x").as_slice(),
                b"h\0",
                text("y").as_slice(),
                b"h\0ub.",
            ]
            .concat(),
            "inside themselves",
        ),
        (
            "unmade.pth",
            b"\x80\x02h\x05.".to_vec(),
            "refers to a value not made yet",
        ),
        ("empty_stack.pth", b"\x80\x02R.".to_vec(), "empty stack"),
        ("no_mark.pth", b"\x80\x02t.".to_vec(), "no MARK is open"),
        (
            "opcode.pth",
            b"\x80\x02\xfe.".to_vec(),
            "unknown pickle opcode 0xfe",
        ),
    ] {
        refused(name, &checkpoint(&pickle), what);
    }
    let many = [b"\x80\x02".to_vec(), vec![b'('; 5_000_000]].concat();
    refused("marks.pth", &checkpoint(&many), "too large");
}

#[test]
fn damaged_data_are_noticed() {
    let mut bytes = checkpoint(&state_dict(&tensor(4, 0, &[4], &[1])));
    let at = bytes.windows(8).position(|w| w == b"a/data/0").unwrap();
    bytes[at + 10] ^= 1;
    refused(
        "flipped.pth",
        &bytes,
        "a/data/0 do not match their checksum",
    );
    for name in ["zip.pth", "legacy.pth"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        let half = format!("half_of_{name}");
        refused(&half, &whole[..whole.len() - 30], "truncated");
    }
    refused(
        "other.pth",
        &zip(&[stored("a.txt", b"x")]),
        "without data.pkl",
    );
    refused(
        "plain.pth",
        b"\x80\x02K\x01.",
        "without PyTorch's magic number",
    );
}

#[test]
fn no_truncation_is_read_and_no_flipped_byte_panics() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let file = scratch("flips.pth");
    let safetensors = scratch("flips.safetensors");
    let (tensors, _) = weights::read(&fixture("module.pth")).unwrap();
    let precision = weights::Precision::F32;
    weights::write(&safetensors, &tensors, Default::default(), precision).unwrap();
    for name in [
        fixture("zip.pth"),
        fixture("legacy.pth"),
        fixture("nested_legacy.pth"),
        fixture("torchscript.pt"),
        safetensors,
    ] {
        let whole = std::fs::read(&name).unwrap();
        let name = name.display();
        for _ in 0..60 {
            let length = rng.random_range(0..whole.len());
            std::fs::write(&file, &whole[..length]).unwrap();
            assert!(weights::read(&file).is_err(), "{name} cut at {length}");
            assert!(weights::list(&file).is_err(), "{name} cut at {length}");
        }
        for _ in 0..200 {
            let mut bytes = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            std::fs::write(&file, &bytes).unwrap();
            // Both outcomes are right: bytes of padding may change.
            let _ = weights::read(&file);
            let _ = weights::list(&file);
        }
    }
}
