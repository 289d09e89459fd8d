//! Python pickles read as data: an interpreter that knows the opcodes which PyTorch writes, builds
//! plain values, and calls nothing. What a pickle asks to be called is either one of the few
//! constructors of tensors, whose arguments are kept, or refused by name.

mod machine;

use std::io::Read;

use safetensors::Dtype;

use machine::Machine;

/// Values and stack entries of one pickle. A checkpoint with optimizer state makes some
/// ten thousand; a pickle made to fill the memory is stopped here.
const MAX_VALUES: usize = 4_000_000;
/// Bytes of one pickle, tensors' data not included.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// Why a pickle is not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It asks for a call that has nothing to do with tensors.
    #[error("refuses to run {0}: a file of weights calls nothing but the constructors of tensors")]
    Refused(String),
    /// The file ends inside the pickle.
    #[error("the pickle ends early, at byte {at}")]
    Truncated {
        /// Where, counted from the start of the pickle.
        at: u64,
    },
    /// An opcode that PyTorch does not write.
    #[error("unknown pickle opcode {code:#04x} at byte {at}")]
    Opcode {
        /// The opcode.
        code: u8,
        /// Where, counted from the start of the pickle.
        at: u64,
    },
    /// The opcodes do not fit together.
    #[error("malformed pickle at byte {at}: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where, counted from the start of the pickle.
        at: u64,
    },
    /// A kind of storage that holds no plain numbers.
    #[error("elements of type {0} are not supported")]
    Storage(String),
    /// More values or bytes than any checkpoint has.
    #[error("the pickle is too large: over {MAX_VALUES} values or {MAX_BYTES} bytes")]
    TooLarge,
    /// The system could not read.
    #[error("{0}")]
    Io(String),
}

/// A run of elements in the file, that one or several tensors look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    /// Its name inside the file.
    pub key: String,
    pub element: Dtype,
    /// How many elements the pickle says there are.
    pub elements: u64,
}

impl Storage {
    /// Bytes that the pickle says there are.
    pub fn bytes(&self) -> u64 {
        self.elements
            .saturating_mul(self.element.bitsize() as u64 / 8)
    }
}

/// A tensor as pickled: a view into a storage. Nothing is checked against the storage yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorRef {
    pub storage: Storage,
    /// In elements.
    pub offset: u64,
    pub shape: Vec<u64>,
    /// In elements, one per dimension.
    pub strides: Vec<u64>,
}

/// A value; everything larger than a number lives in [`Pickle::node`], so that values which hold
/// themselves need no care.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Node(usize),
}

/// What [`Value::Node`] points to.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    /// Bytes, and integers of more than 64 bits.
    Bytes(Vec<u8>),
    Tuple(Vec<Value>),
    /// Lists and sets.
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// A class or function by name; only named, never looked up.
    Name(String),
    Storage(Storage),
    Tensor(TensorRef),
    /// An object of a class that is not known, and its attributes.
    Object {
        class: String,
        state: Value,
    },
}

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    root: Value,
}

impl Pickle {
    /// Reads one pickle, up to its end and not a byte further.
    pub fn read(input: &mut impl Read) -> Result<Self, PickleError> {
        Machine::new(input).run()
    }

    pub fn root(&self) -> Value {
        self.root
    }

    /// The node behind a value, if it is not a number.
    pub fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(index) => Some(&self.nodes[index]),
            _ => None,
        }
    }

    /// The text behind a value, if it is one.
    pub fn text(&self, value: Value) -> Option<&str> {
        match self.node(value)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value under `key` in a dictionary.
    pub fn get(&self, dict: Value, key: &str) -> Option<Value> {
        let Node::Dict(pairs) = self.node(dict)? else {
            return None;
        };
        let found = pairs.iter().rev().find(|(k, _)| self.text(*k) == Some(key));
        found.map(|(_, value)| *value)
    }

    /// All storages that the pickle names.
    pub fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(storage),
            _ => None,
        })
    }
}
