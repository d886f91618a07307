"""What a pickle refers to is graded by its name alone."""

import time

import pytest

from ckptool.convert.grades import LEAF_EFFECT, METHOD_EFFECT, NOUN, PATH_EFFECT, Grade, grade, path_effect
from ckptool.convert.grades_dangerous import ANYWHERE, METHODS, MODULES, ORDINARY, PACKAGES
from ckptool.convert.grades_harmless import HARMLESS

EFFECTS = {"executes", "reads", "writes", "connects", "builds a call", "loads code", "changes objects"}

# Each was published as a payload that a scanner let pass. Sources: the test data of picklescan (its GHSA advisories),
# fickling's bypass tests, modelaudit's list of CVEs.
PUBLISHED = """
__builtin__ eval | __builtin__ compile | __builtin__ getattr | __builtin__ globals | __builtin__ apply | builtins exec
builtins __import__ | posix system | nt system | os system | sys exit | subprocess run | commands getoutput
socket create_connection | httplib HTTPSConnection | requests.api get | aiohttp.client ClientSession
urllib.request urlopen | ssl get_server_certificate | webbrowser open | runpy _run_code | pip main | venv create
operator attrgetter | _operator attrgetter | _operator methodcaller | operator methodcaller | operator itemgetter
functools partial | functools reduce | pickle loads | _pickle loads | marshal loads | importlib import_module
pkgutil resolve_name | bdb Bdb | bdb Bdb.run | pdb run | cProfile run | cProfile runctx | profile run
profile Profile.run | profile Profile.runctx | trace Trace.run | trace Trace.runctx | timeit timeit
doctest debug_script | code InteractiveInterpreter.runcode | pydoc pipepager | pydoc locate | pty spawn | ctypes CDLL
ensurepip _run_pip | distutils.file_util write_file | shutil rmtree | _io FileIO | io FileIO | logging FileHandler
idlelib.pyshell ModifiedInterpreter.runcode | idlelib.pyshell ModifiedInterpreter.runcommand
idlelib.debugobj ObjectTreeItem.SetText | idlelib.autocomplete AutoComplete.get_entity
idlelib.autocomplete AutoComplete.fetch_completions | idlelib.calltip Calltip.fetch_tip | idlelib.calltip get_entity
idlelib.run Executive.runcode | lib2to3.pgen2.grammar Grammar.loads | lib2to3.pgen2.pgen ParserGenerator.make_label
asyncio.unix_events _UnixSubprocessTransport._start | _aix_support _read_cmd_output | _osx_support _read_output
_pyrepl.pager pipe_pager | imaplib IMAP4_stream | uuid _get_command_stdout
test.support.script_helper assert_python_ok | types CodeType | types FunctionType | cloudpickle.cloudpickle subimport
cloudpickle.cloudpickle _make_function | cloudpickle.cloudpickle _builtin_type | joblib load | dill loads
_interpreters run_string | _xxsubinterpreters run_string | inspect getattr_static | gc get_objects
unittest.mock patch | imp load_source | zipimport zipimporter | smtplib SMTP | ftplib FTP | telnetlib Telnet
xmlrpc.client ServerProxy | socketserver TCPServer | sqlite3 connect | shelve open | platform popen | signal signal
atexit register | threading Thread | multiprocessing Process | multiprocessing.pool Pool | linecache getlines
concurrent.futures ProcessPoolExecutor | logging.config listen | fileinput input | tarfile open | zipfile ZipFile
compileall compile_file | py_compile compile | codeop compile_command | _posixsubprocess fork_exec | pipes Template
numpy load | numpy.testing._private.utils runstring | numpy.f2py.crackfortran getlincoef | numpy fromfile
numpy.f2py.crackfortran _eval_length | numpy.ctypeslib load_library | numpy.distutils.exec_command exec_command
numpy memmap | numpy.lib.npyio save | pandas read_pickle | pandas eval | pandas.io.pickle read_pickle
pandas.core.computation.eval eval | torch load | torch.serialization load | torch.storage _load_from_bytes
torch.hub load | torch.hub load_state_dict_from_url | torch.jit.unsupported_tensor_ops execWrapper | torch.jit load
torch.jit.annotations parse_type_line | torch._inductor.codecache compile_file | torch._dynamo.guards GuardBuilder.get
torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression | torch.utils.collect_env run
torch.fx.graph_module reduce_graph_module | torch.utils.cpp_extension load_inline | torch.package PackageImporter
torch.utils.bottleneck.__main__ run_cprofile | torch.utils.bottleneck.__main__ run_autograd_prof
torch.utils.data.datapipes.utils.decoder basichandlers | torch.utils._config_module ConfigModule.load_config
torch.utils.collect_env run_and_read_all | torch.distributed.rpc rpc_sync | torch._tensor _rebuild_from_type_v2
torch.distributed.nn.api.remote_module RemoteModule | torch.multiprocessing spawn | builtins breakpoint
tensorflow.keras.models load_model | sklearn.externals.joblib load | yaml unsafe_load | ldm.util instantiate_from_config
urllib2 urlopen | copy_reg add_extension | ConfigParser os.system | exceptions __builtins__ | picklescan.scanner _log
"""
# Seen in honest files.
HONEST = """
pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint | lightning.pytorch.callbacks.early_stopping EarlyStopping
pytorch_lightning.utilities.parsing AttributeDict | lightning.fabric.utilities.data AttributeDict
lightning_fabric.utilities.data AttributeDict | lightning.pytorch.callbacks.lr_monitor LearningRateMonitor
omegaconf.dictconfig DictConfig | omegaconf.listconfig ListConfig | omegaconf.base ContainerMetadata
omegaconf.base Metadata | omegaconf.nodes AnyNode | typing Any | argparse Namespace | pathlib PosixPath
pathlib WindowsPath | pathlib._local PosixPath | numpy.core.multiarray scalar | numpy._core.multiarray scalar
numpy dtype | numpy.dtypes Float64DType | numpy.random._pickle __randomstate_ctor | numpy.random._mt19937 MT19937
numpy.random._pickle __generator_ctor | numpy.random._pickle __bit_generator_ctor | collections Counter
collections OrderedDict | collections defaultdict | __builtin__ dict | __builtin__ unicode | __builtin__ long
builtins NoneType | exceptions ValueError | copy_reg _reconstructor | copyreg __newobj__ | datetime timedelta
decimal Decimal | fractions Fraction | uuid UUID | types SimpleNamespace | torch device | torch FloatStorage
torch.cuda HalfStorage | torch float8_e4m3fn | torch.torch_version TorchVersion | torch.optim.adamw AdamW
torch.optim.lr_scheduler CosineAnnealingLR | torch.nn.modules.linear Linear | torch.nn.modules.container ParameterDict
torch.nn.parameter Parameter | torch.jit._pickle build_intlist | transformers.trainer_utils SchedulerType
yacs.config CfgNode | easydict EasyDict | ml_collections.config_dict.config_dict ConfigDict | addict.addict Dict
"""
# Honest too, but what they do depends on their arguments, or nobody has looked.
UNVETTED = """
__main__ Net | ultralytics.nn.tasks DetectionModel | builtins type | builtins len | transformers.training_args
TrainingArguments | torch.optim.lr_scheduler LambdaLR | torch.optim.lr_scheduler CyclicLR | numpy trace
torch.signal.windows hann | model.code Encoder | my.trace.profile Site | project.types Config | mamba.test run_one
lightning.fabric.strategies DDPStrategy | pytorch_lightning.callbacks.lambda_function LambdaCallback
torchvision.ops nms | torchload load | ossystem x | numpy.randomized RandomState
"""


def pairs(text: str) -> list[tuple[str, str]]:
    fields = text.replace("|", " ").split()
    return list(zip(fields[::2], fields[1::2], strict=True))


@pytest.mark.parametrize(("module", "name"), pairs(PUBLISHED))
def test_published_payloads_are_dangerous(module: str, name: str) -> None:
    found = grade(module, name)
    assert found.level == "dangerous"
    assert found.effect in EFFECTS


@pytest.mark.parametrize(("module", "name"), pairs(HONEST))
def test_training_objects_are_harmless_and_named(module: str, name: str) -> None:
    found = grade(module, name)
    assert found.level == "harmless"
    assert found.effect


@pytest.mark.parametrize(("module", "name"), pairs(UNVETTED))
def test_what_is_in_no_table_is_unknown(module: str, name: str) -> None:
    assert grade(module, name) == Grade("unknown", "")


@pytest.mark.parametrize(("module", "name"), pairs(HONEST))
def test_harmless_means_the_whole_pair_and_never_a_part(module: str, name: str) -> None:
    for other in [
        (module, name + "x"),
        (module, name.lower() + "_"),
        (module, name + "."),
        (module, name + ".update"),
        (module + "x", name),
        (module + ".", name),
        ("x." + module, name),
        (f"{module}.{name}", ""),
        ("", f"{module}.{name}"),
        (module, name + "\n"),
        (module, name + "\0"),
        (module + " ", name),
    ]:
        assert grade(*other).level != "harmless", other


@pytest.mark.parametrize(("module", "name"), pairs(HONEST))
def test_walking_on_from_a_harmless_object_builds_a_call(module: str, name: str) -> None:
    for step in ("__init__.__globals__", "__class__", "__reduce__", "__subclasses__", "__call__", "__dict__"):
        found = grade(module, f"{name}.{step}")
        # Below a module that is dangerous as a whole, that module's own effect is said.
        assert found == Grade("dangerous", path_effect(module, 0) or "builds a call"), step


@pytest.mark.parametrize(
    ("module", "name", "effect"),
    [
        ("torch", "os.system", "builds a call"),
        ("collections", "_sys.modules", "builds a call"),
        ("random", "_os", "builds a call"),
        ("enum", "bltns.__import__", "builds a call"),
        ("typing", "builtins.eval", "builds a call"),
        ("lightning", "torch.load", "builds a call"),
        ("project", "code.InteractiveConsole", "builds a call"),
        ("project", "requests.get", "builds a call"),
        ("typing", "__builtins__", "builds a call"),
        ("torch", "hub.load", "loads code"),
        ("torch", "hub", "loads code"),
        ("numpy", "testing._private.utils.runstring", "executes"),
        ("collections", "_itemgetter", "builds a call"),
    ],
)
def test_a_name_that_walks_to_another_module_is_dangerous(module: str, name: str, effect: str) -> None:
    assert grade(module, name) == Grade("dangerous", effect)


@pytest.mark.parametrize(
    ("module", "effect"),
    [
        ("torch.os", "executes"),
        ("numpy.testing.os", "executes"),
        ("project.os.path", "executes"),
        ("six.moves.builtins.os", "executes"),
        ("project.shutil", "writes"),
        ("project.__main__", "loads code"),
        ("project.__init__", "loads code"),
    ],
)
def test_a_dangerous_module_inside_another_stays_dangerous(module: str, effect: str) -> None:
    assert grade(module, "anything") == Grade("dangerous", effect)


@pytest.mark.parametrize(
    ("module", "name", "effect"),
    [
        ("os", "system", "executes"),
        ("os", "remove", "writes"),
        ("os", "environ", "reads"),
        ("pathlib", "PosixPath.write_text", "writes"),
        ("pathlib", "Path.read_bytes", "reads"),
        ("numpy", "load", "executes"),
        ("numpy", "fromfile", "reads"),
        ("numpy", "save", "writes"),
        ("urllib.request", "urlopen", "connects"),
        ("torch.utils.cpp_extension", "load", "loads code"),
        ("functools", "partial", "builds a call"),
        ("builtins", "setattr", "builds a call"),
        ("sys", "settrace", "changes objects"),
        ("project.helpers", "Popen", "executes"),
    ],
)
def test_the_most_specific_entry_says_the_effect(module: str, name: str, effect: str) -> None:
    assert grade(module, name) == Grade("dangerous", effect)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "\ud800", "\udfff.os", "os\0", "é" * 9, "__", "____", "_._", "\n", "os."]
)
def test_any_strings_get_a_grade(text: str) -> None:
    for pair in ((text, text), (text, "x"), ("x", text), ("builtins", text), ("collections", text)):
        assert grade(*pair).level in ("unknown", "dangerous")


@pytest.mark.parametrize("piece", ["a", ".", "a.", "torch.", "torch.nn.", "_", "__a", "a._", "\ud800", "numpy", "x.__"])
def test_megabytes_are_graded_in_linear_time(piece: str) -> None:
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        start = time.process_time()
        grade(text, text)
        grade("x", text)
        return time.process_time() - start

    # Quadratic work on this much would take minutes.
    assert seconds(500_000) < 5


def test_padding_hides_nothing() -> None:
    assert grade("os." + "a." * 500_000 + "a", "x").level == "dangerous"
    assert grade("x", "a." * 500_000 + "os.system").level == "dangerous"
    assert grade("x" * 500_000 + ".subprocess", "x").level == "dangerous"


def test_every_dangerous_entry_is_found_by_its_own_name() -> None:
    for path, effect in PATH_EFFECT.items():
        module, _, name = path.rpartition(".")
        assert grade(path, "anything") == Grade("dangerous", effect), path
        assert not module or grade(module, name) == Grade("dangerous", effect), path
    for name in LEAF_EFFECT:
        assert grade("project", name).level == "dangerous", name
    for name in METHOD_EFFECT:
        assert grade("project", "Kind." + name).level == "dangerous", name


def test_no_entry_stands_under_two_effects() -> None:
    for table in (MODULES, PACKAGES, ANYWHERE, METHODS):
        assert set(table) <= EFFECTS
        assert sum(map(len, table.values())) == len(set().union(*table.values()))
    assert not set().union(*MODULES.values()) & set().union(*PACKAGES.values())
    assert set().union(*MODULES.values()) >= ORDINARY


def test_harmless_names_are_plain_and_in_no_dangerous_table() -> None:
    listed = [names for modules in HARMLESS.values() for names in modules.values()]
    assert sum(map(len, listed)) == len(NOUN), "a pair stands under two nouns"
    for module, name in NOUN:
        assert "." not in name
        assert name.isidentifier()
        assert f"{module}.{name}" not in PATH_EFFECT
