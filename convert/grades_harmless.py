"""Training objects that stand beside state dicts in honest files: whole (module, name) pairs, by what they are.

A pair is listed when neither calling it nor giving it a state runs, imports or looks up anything that a string in the
file chose. It may call what the file hands it: that is a reference of its own, and graded. Left out on that rule, so
`unknown`: `type` (makes classes), ultralytics models (eval parts of their config), transformers' TrainingArguments
and configs (open files, connect, fetch attributes by name), LambdaLR and CyclicLR, LambdaCallback, ModelPruning.
"""

from ckptool.convert.grades_words import words

# Names of Python 2, which Python 3 still translates in pickles of protocols 0 to 2.
RENAMED_MODULES: dict[str, str] = {
    "__builtin__": "builtins", "__builtins__": "builtins", "exceptions": "builtins", "copy_reg": "copyreg",
    "UserDict": "collections", "UserList": "collections", "UserString": "collections",
    "StringIO": "io", "cStringIO": "io", "ConfigParser": "configparser", "Queue": "queue",
}  # fmt: skip
RENAMED_BUILTINS: dict[str, str] = {
    "unicode": "str", "basestring": "str", "long": "int", "xrange": "range", "unichr": "chr",
    "StandardError": "Exception",
}  # fmt: skip

_NUMPY_TYPES = words("""
    ndarray dtype generic number integer signedinteger unsignedinteger inexact floating complexfloating flexible
    character bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intc uintc intp uintp byte ubyte short
    ushort longlong ulonglong long ulong float16 float32 float64 float128 longdouble half single double complex64
    complex128 complex256 clongdouble str_ bytes_ string_ unicode_ void object_ datetime64 timedelta64""")
_NUMPY_DTYPES = words("""
    BoolDType Int8DType Int16DType Int32DType Int64DType UInt8DType UInt16DType UInt32DType UInt64DType ByteDType
    UByteDType ShortDType UShortDType IntDType UIntDType LongDType ULongDType LongLongDType ULongLongDType
    Float16DType Float32DType Float64DType LongDoubleDType Complex64DType Complex128DType CLongDoubleDType StrDType
    BytesDType VoidDType DateTime64DType TimeDelta64DType ObjectDType""")
_PATHS = words("PurePath PurePosixPath PureWindowsPath Path PosixPath WindowsPath")
_STORAGES = words("""
    ByteStorage CharStorage ShortStorage IntStorage LongStorage HalfStorage FloatStorage DoubleStorage BoolStorage
    BFloat16Storage ComplexFloatStorage ComplexDoubleStorage QUInt8Storage QInt8Storage QInt32Storage QUInt4x2Storage
    QUInt2x4Storage""")
_TENSORS = words("""
    ByteTensor CharTensor ShortTensor IntTensor LongTensor HalfTensor FloatTensor DoubleTensor BoolTensor
    BFloat16Tensor""")

# What Lightning keeps in a checkpoint: parts of module names, below each of its packages.
_LIGHTNING: dict[str, dict[str, frozenset[str]]] = {
    # constructors that only keep their arguments; old files use the classes as keys of `callbacks`
    "Lightning callback": {
        "callbacks.base": words("Callback"),
        "callbacks.callback": words("Callback"),
        "callbacks.checkpoint": words("Checkpoint"),
        "callbacks.model_checkpoint": words("ModelCheckpoint"),
        "callbacks.early_stopping": words("EarlyStopping EarlyStoppingReason"),
        "callbacks.lr_monitor": words("LearningRateMonitor"),
        "callbacks.lr_logger": words("LearningRateLogger"),
        "callbacks.lr_finder": words("LearningRateFinder"),
        "callbacks.batch_size_finder": words("BatchSizeFinder"),
        "callbacks.device_stats_monitor": words("DeviceStatsMonitor"),
        "callbacks.gradient_accumulation_scheduler": words("GradientAccumulationScheduler"),
        "callbacks.model_summary": words("ModelSummary"),
        "callbacks.rich_model_summary": words("RichModelSummary"),
        "callbacks.stochastic_weight_avg": words("StochasticWeightAveraging"),
        "callbacks.timer": words("Timer Interval"),
        "callbacks.progress": words("ProgressBar"),
        "callbacks.progress.base": words("ProgressBarBase"),
        "callbacks.progress.progress_bar": words("ProgressBar"),
        "callbacks.progress.tqdm_progress": words("TQDMProgressBar"),
        "callbacks.progress.rich_progress": words("RichProgressBar RichProgressBarTheme"),
    },
    "Lightning hyperparameters": {
        "utilities.parsing": words("AttributeDict"),
        "utilities.data": words("AttributeDict"),
    },
    # enumerations and plain dataclasses
    "Lightning state": {
        "trainer.states": words("TrainerFn TrainerState TrainerStatus RunningStage"),
        "utilities.enums": words("LightningEnum GradClipAlgorithmType AMPType DeviceType DistributedType"),
        "trainer.progress": words("""
            BaseProgress Progress BatchProgress EpochProgress SchedulerProgress OptimizerProgress OptimizationProgress
            DataLoaderProgress Tracker ReadyCompletedTracker StartedTracker ProcessedTracker"""),
        "loops.progress": words("""
            _BaseProgress _Progress _BatchProgress _SchedulerProgress _OptimizerProgress _OptimizationProgress
            _ReadyCompletedTracker _StartedTracker _ProcessedTracker"""),
    },
}

HARMLESS: dict[str, dict[str, frozenset[str]]] = {
    "plain value": {
        "builtins": words("""
            dict list set frozenset tuple int float str bool bytes bytearray complex slice range object chr NoneType
            None Ellipsis NotImplemented True False"""),
        "types": words("NoneType EllipsisType NotImplementedType GenericAlias"),
        "fractions": words("Fraction"),
        "decimal": words("Decimal"),
        "_decimal": words("Decimal"),
        "datetime": words("datetime date time timedelta timezone"),
        "uuid": words("UUID SafeUUID"),
        "array": words("array _array_reconstructor"),
        "io": words("BytesIO StringIO"),
        "_io": words("BytesIO StringIO"),
        "random": words("Random"),
        "_codecs": words("encode"),
        "codecs": words("encode"),
        "re": words("_compile"),
    },
    # raising one is another matter, and a pickle cannot
    "exception": {
        "builtins": words("""
            BaseException Exception ArithmeticError AssertionError AttributeError BufferError EOFError EnvironmentError
            FileExistsError FileNotFoundError FloatingPointError GeneratorExit IOError ImportError IndentationError
            IndexError InterruptedError KeyError KeyboardInterrupt LookupError MemoryError ModuleNotFoundError NameError
            NotImplementedError OSError OverflowError PermissionError RecursionError ReferenceError RuntimeError
            StopAsyncIteration StopIteration SyntaxError SystemError SystemExit TabError TimeoutError TypeError
            UnboundLocalError UnicodeDecodeError UnicodeEncodeError UnicodeError UnicodeTranslateError ValueError
            ZeroDivisionError Warning DeprecationWarning FutureWarning RuntimeWarning UserWarning"""),
    },
    "container": {
        "collections": words("OrderedDict Counter defaultdict deque ChainMap UserDict UserList UserString"),
        "types": words("SimpleNamespace MappingProxyType"),
    },
    # what NEWOBJ does, for the protocols that lack the opcode
    "object constructor": {"copyreg": words("_reconstructor __newobj__ __newobj_ex__")},
    "command-line arguments": {"argparse": words("Namespace")},
    "path": {"pathlib": _PATHS, "pathlib._local": _PATHS, "pathlib._abc": _PATHS},
    "logger": {"logging": words("getLogger")},
    # special forms: calling one raises
    "type hint": {
        "typing": words("""
            Any Optional Union List Dict Tuple Set FrozenSet Sequence Mapping MutableMapping Iterable Callable Type
            Literal ClassVar Final"""),
    },
    "omegaconf": {
        "omegaconf.base": words("Container ContainerMetadata Metadata Node SCMode UnionNode"),
        "omegaconf.basecontainer": words("BaseContainer"),
        "omegaconf.dictconfig": words("DictConfig"),
        "omegaconf.listconfig": words("ListConfig"),
        "omegaconf.nodes": words("""
            ValueNode AnyNode NoneNode StringNode PathNode IntegerNode BytesNode FloatNode BooleanNode EnumNode
            LiteralNode InterpolationResultNode"""),
    },
    # dicts whose keys are attributes
    "config": {
        "easydict": words("EasyDict"),
        "addict.addict": words("Dict"),
        "munch": words("Munch DefaultMunch"),
        "yacs.config": words("CfgNode"),
        "ml_collections.config_dict.config_dict": words("ConfigDict FrozenConfigDict"),
        "mmcv.utils.config": words("ConfigDict"),
        "mmengine.config.config": words("ConfigDict"),
    },
    "numpy value": {
        "numpy": _NUMPY_TYPES,
        "numpy.dtypes": _NUMPY_DTYPES,
        "numpy.core.multiarray": words("_reconstruct scalar"),
        "numpy._core.multiarray": words("_reconstruct scalar"),
        "numpy.core.numeric": words("_frombuffer"),
        "numpy._core.numeric": words("_frombuffer"),
    },
    "numpy random state": {
        "numpy.random": words("__RandomState_ctor RandomState Generator"),
        "numpy.random._pickle": words("__randomstate_ctor __generator_ctor __bit_generator_ctor"),
        "numpy.random.mtrand": words("RandomState"),
        "numpy.random._generator": words("Generator"),
        "numpy.random._mt19937": words("MT19937"),
        "numpy.random._pcg64": words("PCG64 PCG64DXSM"),
        "numpy.random._philox": words("Philox"),
        "numpy.random._sfc64": words("SFC64"),
    },
    # what the machine itself gives a meaning, where it stands in a place that has none
    "tensor": {
        "torch": words("Tensor Size device dtype") | _STORAGES | _TENSORS,
        "torch.cuda": _STORAGES | _TENSORS,
        "torch._tensor": words("Tensor"),
        "torch.storage": words("TypedStorage UntypedStorage _TypedStorage _UntypedStorage"),
        "torch.nn.parameter": words("Parameter Buffer"),
        "torch._utils": words("""
            _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_parameter_with_state
            _rebuild_qtensor _rebuild_sparse_tensor _rebuild_nested_tensor _rebuild_meta_tensor_no_storage
            _rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor _rebuild_xla_tensor"""),
        "torch.jit._pickle": words("build_intlist build_tensorlist build_doublelist build_boollist restore_type_tag"),
    },
    "dtype": {
        "torch": words("""
            uint8 int8 int16 short int32 int int64 long uint16 uint32 uint64 float16 half float32 float float64 double
            bfloat16 complex32 chalf complex64 cfloat complex128 cdouble bool qint8 quint8 qint32 quint4x2 quint2x4
            float8_e5m2 float8_e4m3fn float8_e5m2fnuz float8_e4m3fnuz float8_e8m0fnu float4_e2m1fn_x2"""),
    },
    "memory layout": {
        "torch": words("""
            strided sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc jagged preserve_format contiguous_format
            channels_last channels_last_3d layout memory_format per_tensor_affine per_channel_affine
            per_tensor_symmetric per_channel_symmetric per_channel_affine_float_qparams"""),
        "torch.serialization": words("_get_layout"),
    },
    # `torch.__version__` as some trainers save it: a string
    "version": {"torch.torch_version": words("TorchVersion")},
    "optimizer": {
        "torch.optim.optimizer": words("Optimizer"),
        "torch.optim.adadelta": words("Adadelta"),
        "torch.optim.adagrad": words("Adagrad"),
        "torch.optim.adam": words("Adam"),
        "torch.optim.adamax": words("Adamax"),
        "torch.optim.adamw": words("AdamW"),
        "torch.optim.asgd": words("ASGD"),
        "torch.optim.nadam": words("NAdam"),
        "torch.optim.radam": words("RAdam"),
        "torch.optim.rmsprop": words("RMSprop"),
        "torch.optim.rprop": words("Rprop"),
        "torch.optim.sgd": words("SGD"),
        "torch.optim.sparse_adam": words("SparseAdam"),
    },
    # those that take a function (LambdaLR, MultiplicativeLR, CyclicLR) call it when made, and are left out
    "learning-rate schedule": {
        "torch.optim.lr_scheduler": words("""
            StepLR MultiStepLR ConstantLR LinearLR ExponentialLR PolynomialLR CosineAnnealingLR ReduceLROnPlateau
            CosineAnnealingWarmRestarts OneCycleLR _SchedulePhase"""),
    },
    "gradient scaler": {
        "torch.cuda.amp.grad_scaler": words("GradScaler OptState _refresh_per_optimizer_state"),
        "torch.amp.grad_scaler": words("GradScaler OptState _refresh_per_optimizer_state"),
    },
    "layer": {
        "torch.nn.modules.module": words("Module"),
        "torch.nn.modules.container": words("Sequential ModuleList ModuleDict ParameterList ParameterDict"),
        "torch.nn.modules.linear": words("Linear Identity Bilinear NonDynamicallyQuantizableLinear"),
        "torch.nn.modules.conv": words("Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d"),
        "torch.nn.modules.normalization": words("LayerNorm GroupNorm RMSNorm LocalResponseNorm CrossMapLRN2d"),
        "torch.nn.modules.batchnorm": words("BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm"),
        "torch.nn.modules.instancenorm": words("InstanceNorm1d InstanceNorm2d InstanceNorm3d"),
        "torch.nn.modules.activation": words("""
            ReLU ReLU6 LeakyReLU PReLU RReLU ELU CELU SELU GELU SiLU Mish Sigmoid Tanh Softmax Softmax2d LogSoftmax
            Softplus Softsign Hardswish Hardsigmoid Hardtanh LogSigmoid GLU Threshold MultiheadAttention"""),
        "torch.nn.modules.dropout": words("Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout"),
        "torch.nn.modules.sparse": words("Embedding EmbeddingBag"),
        "torch.nn.modules.pooling": words("""
            MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d
            AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d"""),
        "torch.nn.modules.padding": words("""
            ZeroPad2d ConstantPad1d ConstantPad2d ConstantPad3d ReflectionPad1d ReflectionPad2d ReflectionPad3d
            ReplicationPad1d ReplicationPad2d ReplicationPad3d"""),
        "torch.nn.modules.pixelshuffle": words("PixelShuffle PixelUnshuffle"),
        "torch.nn.modules.upsampling": words("Upsample UpsamplingNearest2d UpsamplingBilinear2d"),
        "torch.nn.modules.flatten": words("Flatten Unflatten"),
        "torch.nn.modules.fold": words("Fold Unfold"),
        "torch.nn.modules.rnn": words("RNN LSTM GRU RNNCell LSTMCell GRUCell"),
        "torch.nn.modules.loss": words("""
            MSELoss L1Loss SmoothL1Loss HuberLoss CrossEntropyLoss NLLLoss BCELoss BCEWithLogitsLoss KLDivLoss"""),
    },
    "training option": {
        "transformers.trainer_utils": words("""
            IntervalStrategy EvaluationStrategy SaveStrategy SchedulerType HubStrategy FSDPOption ShardedDDPOption"""),
        "transformers.training_args": words("OptimizerNames ParallelMode"),
        "transformers.debug_utils": words("DebugOption"),
        "accelerate.utils.dataclasses": words("DistributedType"),
    },
} | {
    noun: {
        f"{package}.{module}": names
        for package in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric")
        for module, names in table.items()
        if "fabric" not in package or module == "utilities.data"
    }
    for noun, table in _LIGHTNING.items()
}
