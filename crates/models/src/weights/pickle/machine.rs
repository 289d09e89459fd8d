//! The stack machine that a pickle is written for.

use std::collections::HashMap;
use std::io::Read;

use safetensors::Dtype;

use super::{MAX_BYTES, MAX_VALUES, Node, Pickle, PickleError, Storage, TensorRef, Value};

/// Type of the elements of a storage class.
fn element_type(class: &str) -> Option<Dtype> {
    let name = class.strip_prefix("torch.")?;
    let name = name.strip_prefix("cuda.").unwrap_or(name);
    Some(match name {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

/// The state of a pickle on its way: the bytes, and what they have built so far.
pub(super) struct Machine<'r, R> {
    input: &'r mut R,
    at: u64,
    values: usize,
    nodes: Vec<Node>,
    stack: Vec<Value>,
    /// Heights of the stack at each open MARK.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

impl<'r, R: Read> Machine<'r, R> {
    pub fn new(input: &'r mut R) -> Self {
        Self {
            input,
            at: 0,
            values: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Up to the end of the pickle and not a byte further.
    pub fn run(mut self) -> Result<Pickle, PickleError> {
        loop {
            let code = self.byte()?;
            if code == b'.' {
                let root = self.pop()?;
                return Ok(Pickle {
                    nodes: self.nodes,
                    root,
                });
            }
            self.step(code)?;
        }
    }

    fn step(&mut self, code: u8) -> Result<(), PickleError> {
        match code {
            0x80 => match self.byte()? {
                0..=5 => Ok(()),
                _ => Err(self.malformed("a protocol above 5")),
            },
            0x95 => self.array::<8>().map(|_| ()), // FRAME
            b'(' => self.mark(),
            b'0' => self.pop().map(|_| ()),
            b'1' => self.since_mark().map(|_| ()),
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(i64::from(value)))
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(i64::from(value)))
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(i64::from(value)))
            }
            0x8a => {
                let length = self.byte()?;
                let bytes = self.bytes(u64::from(length))?;
                self.long(bytes)
            }
            b'G' => {
                self.array::<8>()?;
                self.push(Value::Float)
            }
            b'X' | b'T' => {
                let length = u32::from_le_bytes(self.array()?);
                self.push_text(u64::from(length))
            }
            0x8c | b'U' => {
                let length = self.byte()?;
                self.push_text(u64::from(length))
            }
            0x8d => {
                let length = u64::from_le_bytes(self.array()?);
                self.push_text(length)
            }
            b'B' => {
                let length = u32::from_le_bytes(self.array()?);
                let bytes = self.bytes(u64::from(length))?;
                self.push_node(Node::Bytes(bytes))
            }
            b'C' => {
                let length = self.byte()?;
                let bytes = self.bytes(u64::from(length))?;
                self.push_node(Node::Bytes(bytes))
            }
            b')' => self.push_node(Node::Tuple(Vec::new())),
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..code {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push_node(Node::Tuple(items))
            }
            b't' => {
                let items = self.since_mark()?;
                self.push_node(Node::Tuple(items))
            }
            b']' | 0x8f => self.push_node(Node::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.extend_list(items)
            }
            0x91 => {
                let items = self.since_mark()?;
                self.push_node(Node::List(items))
            }
            b'}' => self.push_node(Node::Dict(Vec::new())),
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend_dict(&[key, value])
            }
            b'u' => {
                let items = self.since_mark()?;
                self.extend_dict(&items)
            }
            b'q' => {
                let index = self.byte()?;
                self.memoize(u32::from(index))
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.memoize(index)
            }
            0x94 => self.memoize(self.memo.len() as u32),
            b'h' => {
                let index = self.byte()?;
                self.recall(u32::from(index))
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)
            }
            b'c' => {
                let name = self.name_lines()?;
                self.push_node(Node::Name(name))
            }
            0x93 => {
                let name = self.pop_text()?;
                let module = self.pop_text()?;
                self.push_node(Node::Name(format!("{module}.{name}")))
            }
            b'i' => Err(PickleError::Refused(self.name_lines()?)),
            b'o' => {
                let class = self.since_mark()?.first().copied();
                Err(PickleError::Refused(self.callee(class)))
            }
            0x82..=0x84 => Err(PickleError::Refused("a function by extension code".into())),
            b'R' => self.reduce(),
            0x81 => self.new_object(),
            b'b' => self.build(),
            b'Q' => self.persistent(),
            code => Err(PickleError::Opcode { code, at: self.at }),
        }
    }

    fn malformed(&self, what: &'static str) -> PickleError {
        PickleError::Malformed { what, at: self.at }
    }

    fn read_exact(&mut self, into: &mut [u8]) -> Result<(), PickleError> {
        self.input.read_exact(into).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => PickleError::Truncated { at: self.at },
            _ => PickleError::Io(e.to_string()),
        })?;
        self.at += into.len() as u64;
        if self.at > MAX_BYTES {
            return Err(PickleError::TooLarge);
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.array::<1>()?[0])
    }

    /// `length` bytes; what the pickle says of the length is not believed before they are there.
    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, PickleError> {
        if length > MAX_BYTES - self.at.min(MAX_BYTES) {
            // Either a lie or a giant; the file's end would tell which, only later.
            return Err(PickleError::TooLarge);
        }
        let mut bytes = Vec::new();
        let mut part = Read::take(&mut *self.input, length);
        part.read_to_end(&mut bytes)
            .map_err(|e| PickleError::Io(e.to_string()))?;
        self.at += bytes.len() as u64;
        if (bytes.len() as u64) < length {
            return Err(PickleError::Truncated { at: self.at });
        }
        Ok(bytes)
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                byte => line.push(byte),
            }
        }
        String::from_utf8(line).map_err(|_| self.malformed("a name that is not UTF-8"))
    }

    fn name_lines(&mut self) -> Result<String, PickleError> {
        let module = self.line()?;
        let name = self.line()?;
        Ok(format!("{module}.{name}"))
    }

    fn count(&mut self) -> Result<(), PickleError> {
        self.values += 1;
        match self.values > MAX_VALUES {
            true => Err(PickleError::TooLarge),
            false => Ok(()),
        }
    }

    fn push(&mut self, value: Value) -> Result<(), PickleError> {
        self.count()?;
        self.stack.push(value);
        Ok(())
    }

    fn push_node(&mut self, node: Node) -> Result<(), PickleError> {
        self.nodes.push(node);
        self.push(Value::Node(self.nodes.len() - 1))
    }

    fn push_text(&mut self, length: u64) -> Result<(), PickleError> {
        let bytes = self.bytes(length)?;
        // Python writes lone surrogates, and Python 2 any bytes; no name of a tensor has them.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.push_node(Node::Text(text))
    }

    /// A little-endian two's complement integer of any length.
    fn long(&mut self, bytes: Vec<u8>) -> Result<(), PickleError> {
        if bytes.len() > 8 {
            return self.push_node(Node::Bytes(bytes));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut padded = [if negative { 0xff } else { 0 }; 8];
        padded[..bytes.len()].copy_from_slice(&bytes);
        self.push(Value::Int(i64::from_le_bytes(padded)))
    }

    fn mark(&mut self) -> Result<(), PickleError> {
        self.count()?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => Ok(self.stack.pop().unwrap_or(Value::None)),
            false => Err(self.malformed("takes a value from an empty stack")),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Value>, PickleError> {
        let mark = self.marks.pop();
        let mark = mark.ok_or_else(|| self.malformed("no MARK is open"))?;
        Ok(self.stack.split_off(mark))
    }

    /// The value on top, which stays there.
    fn top(&self) -> Result<Value, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack[floor..].last().copied();
        top.ok_or_else(|| self.malformed("needs a value on the stack"))
    }

    fn top_node(&mut self) -> Result<&mut Node, PickleError> {
        match self.top()? {
            Value::Node(index) => Ok(&mut self.nodes[index]),
            _ => Err(self.malformed("a number where a container belongs")),
        }
    }

    fn extend_list(&mut self, items: Vec<Value>) -> Result<(), PickleError> {
        match self.top_node()? {
            Node::List(list) => list.extend(items),
            _ => return Err(self.malformed("appends to what is no list")),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Value]) -> Result<(), PickleError> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.malformed("a key without a value"));
        }
        match self.top_node()? {
            Node::Dict(dict) => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            _ => return Err(self.malformed("sets an item of what is no dictionary")),
        }
        Ok(())
    }

    fn memoize(&mut self, index: u32) -> Result<(), PickleError> {
        let value = self.top()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), PickleError> {
        let value = self.memo.get(&index).copied();
        let value = value.ok_or_else(|| self.malformed("refers to a value not made yet"))?;
        self.push(value)
    }

    fn as_node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(index),
            _ => None,
        }
    }

    fn as_text(&self, value: Value) -> Option<&str> {
        match self.as_node(value)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    fn as_tuple(&self, value: Value) -> Option<&[Value]> {
        match self.as_node(value)? {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn pop_text(&mut self) -> Result<String, PickleError> {
        let value = self.pop()?;
        let text = self.as_text(value).map(str::to_owned);
        text.ok_or_else(|| self.malformed("a name that is no text"))
    }

    fn pop_tuple(&mut self) -> Result<Vec<Value>, PickleError> {
        let value = self.pop()?;
        let items = self.as_tuple(value).map(<[Value]>::to_vec);
        items.ok_or_else(|| self.malformed("arguments that are no tuple"))
    }

    fn callee(&self, value: Option<Value>) -> String {
        match value.and_then(|value| self.as_node(value)) {
            Some(Node::Name(name)) => name.clone(),
            _ => "a value that is no function".into(),
        }
    }

    fn reduce(&mut self) -> Result<(), PickleError> {
        let arguments = self.pop_tuple()?;
        let function = self.pop()?;
        let name = self.callee(Some(function));
        match name.as_str() {
            "collections.OrderedDict" if arguments.is_empty() => {
                self.push_node(Node::Dict(Vec::new()))
            }
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => {
                let tensor = self.tensor(&arguments);
                let tensor =
                    tensor.ok_or_else(|| self.malformed("a tensor of unknown arguments"))?;
                self.push_node(Node::Tensor(tensor))
            }
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                let data = arguments.first().copied().unwrap_or(Value::None);
                self.push(data)
            }
            "torch.Size" | "torch.device" => self.push_node(Node::Object {
                class: name,
                state: Value::None,
            }),
            // Typed lists of TorchScript archives.
            "torch.jit._pickle.build_intlist"
            | "torch.jit._pickle.build_boollist"
            | "torch.jit._pickle.build_doublelist"
            | "torch.jit._pickle.build_tensorlist"
            | "torch.jit._pickle.restore_type_tag" => {
                let first = arguments.first().copied().unwrap_or(Value::None);
                self.push(first)
            }
            _ => Err(PickleError::Refused(name)),
        }
    }

    /// `(storage, offset, size, stride, ...)`; what follows concerns gradients.
    fn tensor(&self, arguments: &[Value]) -> Option<TensorRef> {
        let [storage, offset, shape, strides, ..] = arguments else {
            return None;
        };
        let Node::Storage(storage) = self.as_node(*storage)? else {
            return None;
        };
        let number = |value: &Value| match value {
            Value::Int(i) => u64::try_from(*i).ok(),
            _ => None,
        };
        let numbers = |value: Value| -> Option<Vec<u64>> {
            self.as_tuple(value)?.iter().map(number).collect()
        };
        Some(TensorRef {
            storage: storage.clone(),
            offset: number(offset)?,
            shape: numbers(*shape)?,
            strides: numbers(*strides)?,
        })
    }

    fn new_object(&mut self) -> Result<(), PickleError> {
        self.pop_tuple()?;
        let class = self.pop()?;
        let Some(Node::Name(class)) = self.as_node(class) else {
            return Err(self.malformed("an object of what is no class"));
        };
        let class = class.clone();
        self.push_node(Node::Object {
            class,
            state: Value::None,
        })
    }

    fn build(&mut self) -> Result<(), PickleError> {
        let state = self.pop()?;
        // Python would call the object's `__setstate__`, and slots come as a pair of dictionaries.
        let parts = match self.as_tuple(state) {
            Some(parts) => parts.to_vec(),
            None => vec![state],
        };
        for part in parts {
            let Some(Node::Dict(pairs)) = self.as_node(part) else {
                continue;
            };
            let hook = pairs.iter().find_map(|(key, value)| {
                let hook = self.as_text(*key)?;
                (hook == "__setstate__").then_some(*value)
            });
            if let Some(function) = hook {
                let function = self.callee(Some(function));
                return Err(PickleError::Refused(format!("{function} as __setstate__")));
            }
        }
        match self.top_node()? {
            // The attributes of an ordered dictionary: PyTorch's `_metadata`.
            Node::Dict(_) => Ok(()),
            Node::Object { state: old, .. } => {
                *old = state;
                Ok(())
            }
            Node::Name(name) => Err(PickleError::Refused(format!("a change of {name}"))),
            _ => Err(self.malformed("sets attributes of what is no object")),
        }
    }

    /// `("storage", class, key, location, elements[, view])`.
    fn persistent(&mut self) -> Result<(), PickleError> {
        let id = self.pop_tuple()?;
        let unknown = || self.malformed("a persistent id that is no storage");
        let [tag, class, key, _, elements, view @ ..] = id.as_slice() else {
            return Err(unknown());
        };
        if self.as_text(*tag) != Some("storage") {
            return Err(unknown());
        }
        let Some(Node::Name(class)) = self.as_node(*class) else {
            return Err(unknown());
        };
        let (Some(key), Value::Int(elements)) = (self.as_text(*key), elements) else {
            return Err(unknown());
        };
        if !matches!(view, [] | [Value::None]) {
            return Err(self.malformed("a storage inside a storage"));
        }
        let element = element_type(class);
        let storage = Storage {
            key: key.to_owned(),
            element: element.ok_or_else(|| PickleError::Storage(class.clone()))?,
            elements: u64::try_from(*elements).map_err(|_| unknown())?,
        };
        self.push_node(Node::Storage(storage))
    }
}
