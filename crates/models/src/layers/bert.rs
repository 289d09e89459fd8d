//! ALBEF's BERT (`models/xbert.py`): the lower layers read text alone, the upper ones (from
//! `fusion_layer` on) also attend to image tokens. Post-norm, exact GELU.
//!
//! The keys and values of cross-attention depend on the image alone, so they are a value of
//! their own ([`ImageKeysValues`]): computed once per image and shared by every text that meets
//! it (positives, negatives, masked texts, re-ranking).

use std::ops::Range;

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{Device, Int, Tensor};
use fitup_kernels::attention::{Reach, attend, attention, attention_probs, attention_rows};
use serde::{Deserialize, Serialize};

use super::block_compute::BlockCompute;
use super::dropout::DropoutSeed;
use super::packing::{Asked, Packing, Pairs, select_rows};
use super::{LayerNorm, Linear, linear, linear_gelu};

mod decoder;
mod opened;

pub use decoder::{DecoderState, SourceKeysValues};
pub use opened::OpenedCrossAttention;

/// Sizes of the text and fusion encoder; field names are those of the official JSON config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BertConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of a token; a multiple of `num_attention_heads`.
    pub hidden_size: usize,
    /// Layers, text and fusion together.
    pub num_hidden_layers: usize,
    /// Index of the first fusion layer.
    pub fusion_layer: usize,
    /// Attention heads per layer.
    pub num_attention_heads: usize,
    /// Width of the hidden layer of a layer's MLP.
    pub intermediate_size: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
    /// Width of the image tokens.
    pub encoder_width: usize,
    /// Kinds of segments; ALBEF uses the first only.
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    /// Epsilon of every LayerNorm.
    #[serde(default = "bert_epsilon")]
    pub layer_norm_eps: f64,
    /// Dropout after embeddings and linear layers, `[0, 1)`.
    #[serde(default = "tenth")]
    pub hidden_dropout_prob: f64,
    /// Dropout on attention weights, `[0, 1)`.
    #[serde(default = "tenth")]
    pub attention_probs_dropout_prob: f64,
}

fn two() -> usize {
    2
}
fn bert_epsilon() -> f64 {
    1e-12
}
fn tenth() -> f64 {
    0.1
}

impl BertConfig {
    /// The model with all weights zero; see [`crate::weights::initialize`].
    pub fn init(&self, device: &Device) -> Bert {
        Bert {
            mlm_head: Some(MlmHead {
                transform: linear(self.hidden_size, self.hidden_size, device),
                layer_norm: LayerNorm::new(self.hidden_size, self.layer_norm_eps, device),
                bias: Initializer::Zeros.init([self.vocab_size], device),
            }),
            ..self.init_headless(device)
        }
    }

    /// As [`Self::init`] without the head: what ALBEF fine-tunes.
    pub fn init_headless(&self, device: &Device) -> Bert {
        Bert {
            embeddings: self.init_embeddings(device),
            layers: (0..self.num_hidden_layers)
                .map(|i| BertLayer::new(self, i >= self.fusion_layer, device))
                .collect(),
            mlm_head: None,
            fusion_layer: self.fusion_layer,
        }
    }

    /// As [`Self::init_headless`] for two images (`models/model_nlvr.py`): each fusion layer is
    /// two, the first for the first image, the second for the second, and the keys and values of
    /// both images come from the first one's projections.
    pub fn init_for_two_images(&self, device: &Device) -> Bert {
        let mut bert = self.init_headless(device);
        for fusion in bert.layers.split_off(self.fusion_layer) {
            let mut second = BertLayer::new(self, true, device);
            if let Some(cross) = &mut second.crossattention {
                (cross.key, cross.value) = (None, None);
            }
            bert.layers.extend([fusion, second]);
        }
        bert
    }

    /// The token embeddings with all weights zero.
    pub(crate) fn init_embeddings(&self, device: &Device) -> BertEmbeddings {
        let tables = [
            self.vocab_size,
            self.max_position_embeddings,
            self.type_vocab_size,
        ];
        BertEmbeddings::new(
            tables,
            self.hidden_size,
            self.layer_norm_eps,
            self.hidden_dropout_prob,
            device,
        )
    }
}

/// Text and fusion encoder with its masked-language-modelling head.
#[derive(Module, Debug)]
pub struct Bert {
    /// Token ids to vectors.
    pub embeddings: BertEmbeddings,
    /// Text layers, then fusion layers.
    pub layers: Vec<BertLayer>,
    /// Hidden vectors to vocabulary logits, where words are predicted.
    pub mlm_head: Option<MlmHead>,
    fusion_layer: usize,
}

/// Keys and values of the fusion layers' cross-attention for a batch of images.
#[derive(Clone, Debug)]
pub struct ImageKeysValues {
    /// Per fusion layer.
    pub layers: Vec<KeysValues>,
}

/// Keys and values of one cross-attention.
#[derive(Clone, Debug)]
pub struct KeysValues {
    /// `[batch, image_tokens, hidden_size]`.
    pub keys: Tensor<3>,
    /// `[batch, image_tokens, hidden_size]`.
    pub values: Tensor<3>,
    /// Added to the scores, `[batch, 1, image_tokens]`; absent when every image token is real.
    pub mask: Option<Tensor<3>>,
}

/// Image tokens that cross-attention reads.
#[derive(Clone, Debug)]
pub struct ImageTokens {
    /// `[batch, image_tokens, encoder_width]`.
    pub tokens: Tensor<3>,
    /// Additive, `[batch, 1, image_tokens]` (see [`image_padding_mask`]); absent when every token
    /// is real.
    pub mask: Option<Tensor<3>>,
}

impl KeysValues {
    /// Both, image after image: each `[batch * image_tokens, hidden_size]`.
    fn rows(&self) -> [Tensor<2>; 2] {
        assert!(self.mask.is_none(), "rows read whole images");
        [&self.keys, &self.values].map(|x| x.clone().flatten(0, 1))
    }
}

impl ImageKeysValues {
    /// Applies a batch operation (choose, repeat, concatenate) to all parts.
    pub fn map(&self, mut op: impl FnMut(Tensor<3>) -> Tensor<3>) -> Self {
        Self {
            layers: self
                .layers
                .iter()
                .map(|kv| KeysValues {
                    keys: op(kv.keys.clone()),
                    values: op(kv.values.clone()),
                    mask: kv.mask.clone().map(&mut op),
                })
                .collect(),
        }
    }
}

/// Additive self-attention mask from a padding mask: 0 for real tokens, -10,000 for padding.
///
/// `attention_mask`: `[batch, seq]` of 0 and 1; returns `[batch, 1, seq]`.
pub fn padding_mask(attention_mask: Tensor<2, Int>) -> Tensor<3> {
    additive(attention_mask.float(), -10_000.0).unsqueeze_dim(1)
}

/// As [`padding_mask`] for image tokens in cross-attention, where the original adds -1e9.
pub fn image_padding_mask(image_mask: Tensor<2, Int>) -> Tensor<3> {
    additive(image_mask.float(), -1e9).unsqueeze_dim(1)
}

/// Additive mask of the causal decoder: a token sees itself and earlier real tokens.
///
/// `attention_mask`: `[batch, seq]`; returns `[batch, seq, seq]`.
pub fn causal_mask(attention_mask: Tensor<2, Int>) -> Tensor<3> {
    let [batch, seq] = attention_mask.dims();
    let device = attention_mask.device();
    let visible = Tensor::<2>::ones([seq, seq], &device).tril(0);
    let visible = visible.unsqueeze_dim::<3>(0)
        * attention_mask
            .float()
            .unsqueeze_dim::<3>(1)
            .expand([batch, seq, seq]);
    visible.neg().add_scalar(1.0).mul_scalar(-10_000.0)
}

fn additive(mask: Tensor<2>, masked: f32) -> Tensor<2> {
    mask.neg().add_scalar(1.0).mul_scalar(masked)
}

impl Bert {
    /// Text mode: embeddings and the text layers. `input_ids`: `[batch, seq]`, `mask`:
    /// additive, `[batch, 1 or seq, seq]`; returns `[batch, seq, hidden_size]`.
    pub fn text(
        &self,
        input_ids: Tensor<2, Int>,
        mask: Tensor<3>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<3> {
        let mut x = self
            .embeddings
            .forward(input_ids, dropout.map(|d| d.at(1000)));
        for (i, layer) in self.layers[..self.fusion_layer].iter().enumerate() {
            x = layer.forward(x, mask.clone(), None, dropout.map(|d| d.at(i as u64)));
        }
        x
    }

    /// Fusion mode: the fusion layers on the output of [`Bert::text`], `[batch, seq,
    /// hidden_size]`, against images; same shape out.
    pub fn fusion(
        &self,
        text_tokens: Tensor<3>,
        mask: Tensor<3>,
        image: &ImageKeysValues,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<3> {
        let mut x = text_tokens;
        let fusion = self.layers[self.fusion_layer..].iter().zip(&image.layers);
        for (i, (layer, image)) in fusion.enumerate() {
            let dropout = dropout.map(|d| d.at((self.fusion_layer + i) as u64));
            x = layer.forward(x, mask.clone(), Some(image), dropout);
        }
        x
    }

    /// As [`Bert::text`] without padding. `input_ids`: `[rows]`, packed as `packing`; returns the
    /// rows that `asked` names, `[asked rows, hidden_size]`.
    pub fn text_rows(
        &self,
        input_ids: Tensor<1, Int>,
        packing: &Packing,
        asked: &Asked,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let dropped = dropout.map(|d| d.at(1000));
        let x = self
            .embeddings
            .forward_rows(input_ids, packing.positions(&self.device()), dropped);
        self.through(0..self.fusion_layer, x, packing, None, asked, dropout)
    }

    /// As [`Bert::fusion`] without padding. `text_tokens`: `[rows, hidden_size]` of
    /// [`Bert::text_rows`], packed as `packing`, each text once, however many pairs it is in;
    /// returns the rows that `asked` names, pair by pair, `[asked rows, hidden_size]`.
    pub fn fusion_rows(
        &self,
        text_tokens: Tensor<2>,
        packing: &Packing,
        pairs: &Pairs,
        image: &ImageKeysValues,
        asked: &Asked,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let layers = self.fusion_layer..self.layers.len();
        let meeting = Some((pairs, image));
        self.through(layers, text_tokens, packing, meeting, asked, dropout)
    }

    /// Texts beside one image each (or NLVR2's two) through all layers, without padding.
    /// `input_ids`: `[rows]`, packed as `packing`, text `i` beside image `i` of `image`; returns the
    /// rows that `asked` names, `[asked rows, hidden_size]`.
    pub fn multi_modal_rows(
        &self,
        input_ids: Tensor<1, Int>,
        packing: &Packing,
        image: &ImageKeysValues,
        asked: &Asked,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let (text_dropout, fusion_dropout) = (dropout.map(|d| d.at(0)), dropout.map(|d| d.at(1)));
        let text = self.text_rows(input_ids, packing, &Asked::All, text_dropout);
        let pairs = Pairs::own(packing.texts());
        self.fusion_rows(text, packing, &pairs, image, asked, fusion_dropout)
    }

    /// Rows through some of the layers. What the result does not need is not computed: texts are
    /// repeated for their pairs only after the first self-attention, which is the same in all of
    /// them, and the last layer has the asked rows alone for queries.
    fn through(
        &self,
        layers: Range<usize>,
        mut x: Tensor<2>,
        packing: &Packing,
        meeting: Option<(&Pairs, &ImageKeysValues)>,
        asked: &Asked,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let mut packing = packing.clone();
        let mut texts: Vec<usize> = (0..packing.texts()).collect();
        for index in layers.clone() {
            let wanted = if index + 1 == layers.end {
                asked
            } else {
                &Asked::All
            };
            let (asking, asking_packing) = packing.asked_rows(wanted, &texts);
            let mut pass = RowsPass {
                asking,
                text: asking_packing.reading(&packing),
                repeated: None,
                image: None,
                dropout: dropout.map(|d| d.at(index as u64)),
            };
            packing = asking_packing;
            let mut inputs = vec![x];
            if let Some((pairs, image)) = meeting {
                if index == layers.start && pairs.texts != texts {
                    pass.repeated = Some(packing.chosen_rows(&pairs.texts));
                    packing = packing.chosen(&pairs.texts);
                    texts.clone_from(&pairs.texts);
                }
                let image = &image.layers[index - layers.start];
                let [count, tokens, _] = image.keys.dims();
                pass.image = Some(packing.reading_images(&pairs.images, count, tokens));
                inputs.extend(image.rows());
            }
            x = self.layers[index].forward_rows(&inputs, pass);
        }
        x
    }

    /// How the layers are computed in training where texts are rows without padding.
    pub fn set_block_compute(&mut self, compute: BlockCompute) {
        for layer in &mut self.layers {
            layer.compute = compute;
        }
    }

    fn device(&self) -> Device {
        self.embeddings.word_embeddings.weight.device()
    }

    /// Keys and values of every fusion layer: layer `j` reads `images[j % images.len()]` (one
    /// image, or NLVR2's two). A layer without projections of its own takes those of the layer
    /// before it.
    pub fn image_keys_values(&self, images: &[ImageTokens]) -> ImageKeysValues {
        let cross: Vec<_> = self.layers[self.fusion_layer..]
            .iter()
            .filter_map(|layer| layer.crossattention.as_ref())
            .collect();
        let layers = cross.iter().enumerate().map(|(j, own)| {
            let image = &images[j % images.len()];
            let projecting = if own.key.is_some() { own } else { cross[j - 1] };
            let [keys, values] = projecting.keys_values(image.tokens.clone());
            let mask = image.mask.clone();
            KeysValues { keys, values, mask }
        });
        ImageKeysValues {
            layers: layers.collect(),
        }
    }

    /// Vocabulary logits of hidden vectors. `hidden`: `[n, hidden_size]`; returns
    /// `[n, vocab_size]`. The output matrix is the word embeddings.
    ///
    /// # Panics
    /// Without [`Self::mlm_head`].
    pub fn mlm_logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let head = self.mlm_head.as_ref().expect("a BERT that predicts words");
        let x = head
            .layer_norm
            .forward(linear_gelu(&head.transform, hidden));
        let embeddings = self.embeddings.word_embeddings.weight.val();
        x.matmul(embeddings.transpose()) + head.bias.val().unsqueeze()
    }
}

/// Word, position and segment embeddings, summed and normalised.
#[derive(Module, Debug)]
pub struct BertEmbeddings {
    /// `[vocab_size, hidden_size]`.
    pub word_embeddings: Embedding,
    /// `[max_position_embeddings, hidden_size]`.
    pub position_embeddings: Embedding,
    /// `[type_vocab_size, hidden_size]`.
    pub token_type_embeddings: Embedding,
    /// Over the sum.
    pub layer_norm: LayerNorm,
    dropout: f64,
}

impl BertEmbeddings {
    /// All zero. `tables`: rows of the word, position and segment tables, each `width` wide;
    /// `dropout`: rate after the LayerNorm, `[0, 1)`.
    pub fn new(
        tables: [usize; 3],
        width: usize,
        epsilon: f64,
        dropout: f64,
        device: &Device,
    ) -> Self {
        let [words, positions, segments] = tables.map(|rows| {
            EmbeddingConfig::new(rows, width)
                .with_initializer(Initializer::Zeros)
                .init(device)
        });
        Self {
            word_embeddings: words,
            position_embeddings: positions,
            token_type_embeddings: segments,
            layer_norm: LayerNorm::new(width, epsilon, device),
            dropout,
        }
    }

    /// `input_ids`: `[batch, seq]`; returns `[batch, seq, hidden_size]`.
    pub fn forward(&self, input_ids: Tensor<2, Int>, dropout: Option<DropoutSeed>) -> Tensor<3> {
        let [_, seq] = input_ids.dims();
        let positions = self.position_embeddings.weight.val().narrow(0, 0, seq);
        let added = positions + self.first_segment();
        self.words_and(added, input_ids, dropout)
    }

    /// As [`Self::forward`] for tokens of several texts one after another. `input_ids`,
    /// `positions`: `[rows]`; returns `[rows, hidden_size]`.
    pub fn forward_rows(
        &self,
        input_ids: Tensor<1, Int>,
        positions: Tensor<1, Int>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let positions = self.position_embeddings.weight.val().select(0, positions);
        let added = positions + self.first_segment();
        self.words_and(added, input_ids.unsqueeze_dim(0), dropout)
            .squeeze_dim(0)
    }

    /// As [`Self::forward`] without positions: what a model with relative positions wants
    /// (`position_embedding_type` other than "absolute" in Hugging Face's BERT).
    pub fn forward_unplaced(
        &self,
        input_ids: Tensor<2, Int>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<3> {
        self.words_and(self.first_segment(), input_ids, dropout)
    }

    /// `[1, hidden_size]`.
    fn first_segment(&self) -> Tensor<2> {
        self.token_type_embeddings.weight.val().narrow(0, 0, 1)
    }

    /// `added`: `[1 or seq, hidden_size]`; `input_ids`: `[batch, seq]`.
    fn words_and(
        &self,
        added: Tensor<2>,
        input_ids: Tensor<2, Int>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<3> {
        // The lookup of `[PAD]` gives no gradient (`padding_idx` of the original); the tied output
        // matrix still does.
        let padding = input_ids.clone().equal_elem(0);
        let words = self.word_embeddings.forward(input_ids);
        let padding = padding.unsqueeze_dim::<3>(2).expand(words.shape());
        let words = words.clone().mask_where(padding, words.detach());
        let x = words + added.unsqueeze_dim::<3>(0);
        let x = self.layer_norm.forward(x);
        match dropout {
            Some(seed) => seed.apply(x, self.dropout),
            None => x,
        }
    }
}

/// A post-norm layer: self-attention, cross-attention in fusion layers, MLP.
#[derive(Module, Debug)]
pub struct BertLayer {
    /// Self-attention.
    pub attention: BertAttention,
    /// Cross-attention to image tokens; only in fusion layers.
    pub crossattention: Option<BertAttention>,
    /// `hidden_size -> intermediate_size`.
    pub intermediate: Linear,
    /// `intermediate_size -> hidden_size`.
    pub output: Linear,
    /// After the MLP's residual.
    pub layer_norm: LayerNorm,
    dropout: f64,
    #[module(skip)]
    compute: BlockCompute,
}

/// What one layer does with rows, all of it known before the rows are.
struct RowsPass {
    /// The rows that have queries; absent: all.
    asking: Option<Vec<usize>>,
    /// Which rows they read in self-attention.
    text: Reach,
    /// Which rows go on from there, each for one of its text's pairs; absent: each once.
    repeated: Option<Vec<usize>>,
    /// Which rows of the images these read; absent in a text layer.
    image: Option<Reach>,
    dropout: Option<DropoutSeed>,
}

impl BertLayer {
    pub(crate) fn new(config: &BertConfig, fusion: bool, device: &Device) -> Self {
        let width = config.hidden_size;
        Self {
            attention: BertAttention::new(config, width, device),
            crossattention: fusion
                .then(|| BertAttention::new(config, config.encoder_width, device)),
            intermediate: linear(width, config.intermediate_size, device),
            output: linear(config.intermediate_size, width, device),
            layer_norm: LayerNorm::new(width, config.layer_norm_eps, device),
            dropout: config.hidden_dropout_prob,
            compute: BlockCompute::default(),
        }
    }

    /// `x`: `[batch, seq, hidden_size]`; same shape out. `mask`: additive, `[batch, 1 or seq,
    /// seq]`.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        mask: Tensor<3>,
        image: Option<&KeysValues>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<3> {
        let [k, v] = self.attention.keys_values(x.clone());
        let mut x = self
            .attention
            .forward(x, k, v, Some(mask), dropout.map(|d| d.at(0)));
        if let (Some(cross), Some(image)) = (&self.crossattention, image) {
            let image = image.clone();
            let dropout = dropout.map(|d| d.at(1));
            x = cross.forward(x, image.keys, image.values, image.mask, dropout);
        }
        self.mlp(x, dropout)
    }

    /// Self-attention on rows: `x`, `[rows, hidden_size]`, reads `source` as `reach` says; same
    /// shape out.
    pub(crate) fn attend_self(
        &self,
        x: Tensor<2>,
        source: Tensor<2>,
        reach: &Reach,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let [k, v] = self.attention.keys_values(source);
        self.attention
            .forward_rows(x, k, v, reach, dropout.map(|d| d.at(0)))
    }

    /// `inputs`: rows, `[rows, hidden_size]`, then in a fusion layer the images' keys and values
    /// ([`KeysValues::rows`]); returns the rows that `pass` leaves, `[rows, hidden_size]`.
    fn forward_rows(&self, inputs: &[Tensor<2>], pass: RowsPass) -> Tensor<2> {
        self.compute.run(self, inputs, move |layer, inputs| {
            layer.apply_rows(inputs, &pass)
        })
    }

    fn apply_rows(&self, inputs: &[Tensor<2>], pass: &RowsPass) -> Tensor<2> {
        let source = inputs[0].clone();
        let select = |x: Tensor<2>, rows: &Option<Vec<usize>>| match rows {
            Some(rows) => select_rows(x, rows),
            None => x,
        };
        let asking = select(source.clone(), &pass.asking);
        let x = self.attend_self(asking, source, &pass.text, pass.dropout);
        let mut x = select(x, &pass.repeated);
        if let (Some(cross), Some(reach)) = (&self.crossattention, &pass.image) {
            let (k, v) = (inputs[1].clone(), inputs[2].clone());
            x = cross.forward_rows(x, k, v, reach, pass.dropout.map(|d| d.at(1)));
        }
        self.mlp(x, pass.dropout)
    }

    /// The MLP with its residual and LayerNorm, `[.., hidden_size]` in and out.
    pub(crate) fn mlp<const D: usize>(
        &self,
        x: Tensor<D>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<D> {
        let hidden = super::mlp(&self.intermediate, &self.output, x.clone());
        let hidden = match dropout {
            Some(seed) => seed.at(2).apply(hidden, self.dropout),
            None => hidden,
        };
        self.layer_norm.forward(hidden + x)
    }
}

/// Attention with separate projections, an output layer, residual and LayerNorm. In
/// cross-attention keys and values come from the image, `encoder_width` wide.
#[derive(Module, Debug)]
pub struct BertAttention {
    /// `hidden_size -> hidden_size`.
    pub query: Linear,
    /// `hidden_size or encoder_width -> hidden_size`; absent, as `value`, where the keys and
    /// values of another layer serve ([`BertConfig::init_for_two_images`]).
    pub key: Option<Linear>,
    /// `hidden_size or encoder_width -> hidden_size`.
    pub value: Option<Linear>,
    /// `hidden_size -> hidden_size`.
    pub output: Linear,
    /// After the residual.
    pub layer_norm: LayerNorm,
    heads: usize,
    hidden_dropout: f64,
    probs_dropout: f64,
}

impl BertAttention {
    fn new(config: &BertConfig, source_width: usize, device: &Device) -> Self {
        let width = config.hidden_size;
        Self {
            query: linear(width, width, device),
            key: Some(linear(source_width, width, device)),
            value: Some(linear(source_width, width, device)),
            output: linear(width, width, device),
            layer_norm: LayerNorm::new(width, config.layer_norm_eps, device),
            heads: config.num_attention_heads,
            hidden_dropout: config.hidden_dropout_prob,
            probs_dropout: config.attention_probs_dropout_prob,
        }
    }

    /// Keys and values of `source`, `[.., hidden_size or encoder_width]`, each `[..,
    /// hidden_size]`.
    ///
    /// # Panics
    /// Without projections of its own.
    fn keys_values<const D: usize>(&self, source: Tensor<D>) -> [Tensor<D>; 2] {
        let own = self.key.as_ref().zip(self.value.as_ref());
        let (key, value) = own.expect("an attention with projections of its own");
        [key.forward(source.clone()), value.forward(source)]
    }

    /// `x`: `[batch, seq, hidden_size]`, `k`, `v`: `[batch, keys, hidden_size]`, `mask`:
    /// additive, `[batch, 1 or seq, keys]`.
    fn forward(
        &self,
        x: Tensor<3>,
        k: Tensor<3>,
        v: Tensor<3>,
        mask: Option<Tensor<3>>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<3> {
        let q = self.query.forward(x.clone());
        self.residual(self.context([q, k, v], mask, dropout), x, dropout)
    }

    /// What the queries read, `[batch, seq, hidden_size]`, before the output layer; arguments as
    /// for [`Self::forward`].
    fn context(
        &self,
        [q, k, v]: [Tensor<3>; 3],
        mask: Option<Tensor<3>>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<3> {
        match self.drops_probs(dropout) {
            Some(seed) => self.dropped_context([q, k, v], mask, seed),
            None => attention(q, k, v, mask, self.heads),
        }
    }

    /// As [`Self::forward`] on rows without padding. `x`: `[rows, hidden_size]`, `k`, `v`:
    /// `[key rows, hidden_size]`.
    fn forward_rows(
        &self,
        x: Tensor<2>,
        k: Tensor<2>,
        v: Tensor<2>,
        reach: &Reach,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let q = self.query.forward(x.clone());
        let dropped = self.drops_probs(dropout);
        let dropped = dropped.map(|seed| seed.at(0).of_attention(self.probs_dropout));
        let context = attention_rows(q, k, v, reach, self.heads, dropped);
        self.residual(context, x, dropout)
    }

    /// The seed, where attention weights are dropped at all.
    fn drops_probs(&self, dropout: Option<DropoutSeed>) -> Option<DropoutSeed> {
        dropout.filter(|_| self.probs_dropout > 0.0)
    }

    /// Attention with dropout on its weights, `[batch, seq, hidden_size]`.
    fn dropped_context(
        &self,
        [q, k, v]: [Tensor<3>; 3],
        mask: Option<Tensor<3>>,
        seed: DropoutSeed,
    ) -> Tensor<3> {
        let probs = attention_probs(q, k, mask, self.heads);
        attend(seed.at(0).apply(probs, self.probs_dropout), v)
    }

    /// The output layer on what was attended to, with residual and LayerNorm.
    fn residual<const D: usize>(
        &self,
        context: Tensor<D>,
        x: Tensor<D>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<D> {
        let hidden = self.output.forward(context);
        let hidden = match dropout {
            Some(seed) => seed.at(1).apply(hidden, self.hidden_dropout),
            None => hidden,
        };
        self.layer_norm.forward(hidden + x)
    }
}

/// Masked-language-modelling head; its output matrix is tied to the word embeddings.
#[derive(Module, Debug)]
pub struct MlmHead {
    /// `hidden_size -> hidden_size`.
    pub transform: Linear,
    /// After the GELU.
    pub layer_norm: LayerNorm,
    /// `[vocab_size]`.
    pub bias: Param<Tensor<1>>,
}
