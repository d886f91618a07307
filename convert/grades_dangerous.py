"""What runs, loads, reads, writes, connects or reaches further when a pickle calls it: names only, by effect.

A full dotted path is dangerous when it is one of these or lies below one; the longest match says the effect. Sources:
the advisories of picklescan and fickling (each of their published bypasses is a test), the tables of picklescan,
fickling, modelscan and modelaudit, and a search of torch 2.13 and numpy 2.4 for what evals, imports or unpickles.
"""

from ckptool.convert.grades_words import under, words

# Top-level modules of Python 2 and 3, with the installers and picklers found everywhere. These words also count as a
# part of a longer path: `torch.os` is os.
MODULES: dict[str, frozenset[str]] = {
    "executes":
    # start processes, shells, threads, interpreters
    words("""
    os posix nt os2 ce subprocess _posixsubprocess _bootsubprocess commands popen2 pty multiprocessing _multiprocessing
    _winapi asyncio _asyncio concurrent threading _thread thread _interpreters _xxsubinterpreters _interpqueues
    _interpchannels sched atexit webbrowser antigravity pipes platform _osx_support _aix_support _pyrepl uuid mailcap
    cgitb tkinter Tkinter _tkinter turtle turtledemo""")
    # run text as code: debuggers, profilers, consoles, test runners
    | words("""
    code codeop rexec bdb pdb cProfile _lsprof profile hotshot timeit trace doctest unittest test pydoc idlelib
    lib2to3 rlcompleter modulefinder""")
    # run what a nested pickle says, out of every scanner's sight
    | words("pickle _pickle cPickle dill _dill cloudpickle joblib jsonpickle shelve")
    # install or build packages, which runs their scripts
    | words("pip _distutils_hack distutils setuptools pkg_resources ensurepip venv virtualenv zipapp"),
    # import, or make code and functions out of bytes
    "loads code": words("""
    importlib _frozen_importlib _frozen_importlib_external imp _imp imputil ihooks pkgutil runpy zipimport site
    marshal compileall py_compile ctypes _ctypes dl cffi _cffi_backend"""),
    # hand out attributes, frames and live objects, or call what they are given
    "builds a call": words("""
    functools _functools types new inspect gc weakref _weakref contextlib contextvars _contextvars curses"""),
    # change the running interpreter for all that follows
    "changes objects": words("""
    sys _testcapi _testinternalcapi _compat_pickle copyreg copy_reg signal _signal faulthandler resource fcntl termios
    tty fickling picklescan modelscan modelaudit ckptool"""),
    "reads": words("""
    linecache fileinput filecmp glob dircache posixfile posixpath ntpath genericpath macpath mmap netrc getpass pwd
    grp spwd nis pyclbr pstats tokenize sysconfig mimetypes imghdr sndhdr _pyio tabnanny
    _sitebuiltins"""),
    "writes": words("""
    shutil tempfile tarfile zipfile sqlite3 _sqlite3 dbm _dbm _gdbm anydbm dbhash dumbdbm gdbm whichdb bsddb
    winreg _winreg msilib _msi _posixshmem ossaudiodev mailbox syslog uu binhex wave sunau aifc readline"""),
    "connects": words("""
    socket _socket ssl _ssl _overlapped _scproxy socketserver SocketServer select selectors asyncore asynchat
    http httplib urllib urllib2
    robotparser cookielib ftplib smtplib smtpd poplib imaplib nntplib telnetlib xmlrpc xmlrpclib wsgiref cgi
    BaseHTTPServer SimpleHTTPServer CGIHTTPServer SimpleXMLRPCServer DocXMLRPCServer"""),
}  # fmt: skip

# Of the modules above, words that people also give to folders and functions of their own (`torch.signal`,
# `numpy.trace`): these count at the start of a module, or where a dotted name goes on after them.
ORDINARY: frozenset[str] = words("""
code commands test trace profile signal select site types new thread concurrent http ssl sched pipes platform resource
imp wave glob cgi mailbox uu tty ce dl tokenize turtle""")

# Packages and parts of packages: as the modules above, but only where the path starts with them.
PACKAGES: dict[str, frozenset[str]] = {
    "executes":
    # torch: nested pickles, generated code, worker processes
    under("torch", """
    load serialization.load serialization._load serialization._legacy_load storage._load_from_bytes _inductor _dynamo
    _functorch _export export fx jit compile compiler testing multiprocessing package distributed.rpc
    distributed.elastic distributed.launch distributed.run distributed.launcher distributed.nn
    distributed._tools distributed.flight_recorder distributed.distributed_c10d._tensor_to_object _strobelight
    _thread_safe_fork _guards _higher_order_ops _library _logging utils.benchmark utils.bottleneck utils.collect_env
    utils.data.datapipes utils.show_pickle utils._config_module utils._strobelight cuda._memory_viz
    backends.xeon _vendor _utils._augment_memory_snapshot_stack_traces _utils_internal""")
    # numpy and its neighbours: eval, compilers, pickles in arrays
    | under("numpy", """
    load lib.npyio.load lib.npyio.NpzFile lib._npyio_impl.load lib._npyio_impl.NpzFile lib.format.read_array
    lib._format_impl.read_array f2py testing conftest""")
    | under("pandas", "eval read_pickle io.pickle io.pytables core.computation compat.pickle_compat")
    | under("sympy", "parsing sympify S core.sympify utilities.lambdify utilities.autowrap lambdify parse_expr")
    | words("yaml ruamel jinja2 mako numexpr numba triton cupy Cython pyximport IPython ptpython jedi.api.interpreter")
    # processes of others
    | words("""
    pexpect ptyprocess paramiko fabric invoke plumbum sh psutil docker django.core.management django.core.signing
    PIL.ImageShow PIL.ImageMath PIL.EpsImagePlugin java.lang billiard""")
    # the standard library, where the rest of the module is plain
    | under("builtins", "eval exec execfile compile input raw_input breakpoint exit quit help reload")
    | words("""
    logging.config typing.get_type_hints typing._eval_type typing.ForwardRef annotationlib dataclasses.make_dataclass
    dataclasses._create_fn gettext.c2py cmd.Cmd""")
    # builders of model objects that eval strings of the config or unpickle
    | words("""
    ultralytics.nn.tasks.parse_model ultralytics.nn.tasks.torch_safe_load ultralytics.nn.tasks.attempt_load_weights
    models.yolo.parse_model models.experimental.attempt_load transformers.modeling_utils.load_state_dict
    lightning_fabric.utilities.cloud_io lightning.fabric.utilities.cloud_io pytorch_lightning.utilities.cloud_io
    keras.models keras.saving keras.layers.Lambda tensorflow.keras.models tensorflow.saved_model mlflow"""),
    "loads code":
    under("torch", """
    hub utils.cpp_extension utils.model_zoo ops.load_library classes.load_library _ops _classes _utils.try_import
    _utils._import_dotted_name nn.attention._fa3 nn.attention._fa4 _native utils._import_utils""")
    | words("""
    numpy.ctypeslib transformers.dynamic_module_utils hydra mmengine.config.Config mmcv.utils.config.Config
    mmcv.utils.import_modules_from_strings django.utils.module_loading werkzeug.utils.import_string builtins.__import__
    xml.sax.make_parser xml.sax.expatreader encodings.search_function"""),
    # call, or fetch an attribute of, what the pickle hands them: each carries a call past a list of bad names
    "builds a call":
    under("builtins", "getattr setattr delattr globals locals vars dir map filter iter apply reduce coerce buffer")
    | under("operator", "attrgetter itemgetter methodcaller call")
    | under("_operator", "attrgetter itemgetter methodcaller call")
    | under("itertools", "starmap accumulate groupby takewhile dropwhile filterfalse ifilterfalse imap ifilter")
    | under("numpy", """
    vectorize apply_along_axis apply_over_axes frompyfunc fromfunction piecewise lib.apply_along_axis
    lib.function_base.vectorize lib._function_base_impl.vectorize""")
    # the plain form of _rebuild_from_type_v2 is the machine's to recognise; any other hides a call
    | under("torch", """
    _tensor._rebuild_from_type_v2 _tensor._rebuild_from_type utils.checkpoint utils._pytree utils._cxx_pytree
    overrides _jit_internal func vmap utils.hooks""")
    | words("copy._reconstruct string.Formatter _string"),
    "changes objects":
    under("operator", "setitem delitem iadd iconcat ior iand")
    | under("_operator", "setitem delitem iadd iconcat ior iand")
    | under("torch", """
    library _custom_ops serialization.register_package serialization.add_safe_globals serialization.safe_globals
    serialization.clear_safe_globals serialization.set_default_mmap_options _weights_only_unpickler set_default_dtype
    set_default_device set_default_tensor_type nn.modules.module.register_module_forward_hook
    nn.modules.module.register_module_forward_pre_hook""")
    | words("codecs.register _codecs.register numpy.set_string_function numpy.seterrcall omegaconf.OmegaConf"),
    "reads":
    under("torch", "from_file utils.model_dump utils.data.datapipes.iter _C.PyTorchFileReader")
    | under("torch.distributed.checkpoint", "filesystem state_dict_loader format_utils")
    | under("numpy", """
    fromfile genfromtxt loadtxt fromregex core.multiarray.fromfile _core.multiarray.fromfile rec.fromfile lib.npyio
    lib._npyio_impl lib.format lib._format_impl core.records.fromfile _core.records.fromfile""")
    | under("os", "environ environb getenv listdir scandir walk stat readlink open read")
    | words("""
    pandas.io scipy.io cv2 imageio fsspec h5py PIL.Image.open codecs.open cgi.FieldStorage xml.dom xml.etree xml.sax
    dotenv io.open_code _io.open_code safetensors.torch.load_file"""),
    "writes":
    under("builtins", "open file") | under("io", "open FileIO OpenWrapper TextIOWrapper")
    | under("_io", "open FileIO TextIOWrapper") | under("gzip", "open GzipFile") | under("bz2", "open BZ2File")
    | under("lzma", "open LZMAFile")
    | under("os", """
    remove unlink rename renames replace mkdir makedirs rmdir removedirs write truncate chmod chown link symlink""")
    | under("torch", "save serialization.save onnx utils.tensorboard utils.hipify utils._content_store")
    | under("numpy", "save savez savez_compressed savetxt memmap core.memmap _core.memmap")
    | words("logging.FileHandler logging.basicConfig tracemalloc safetensors.torch.save_file"),
    "connects":
    words("""
    requests httpx aiohttp urllib3 httpcore websocket websockets tornado twisted gevent pycurl boto3 botocore s3fs
    gcsfs huggingface_hub wandb gradio flask selenium playwright logging.handlers numpy.DataSource numpy.lib._datasource
    numpy.lib.npyio.DataSource transformers.utils.hub transformers.file_utils sklearn.datasets zmq redis pymongo""")
    | under("torch", """
    distributed.TCPStore distributed.init_process_group distributed.distributed_c10d.init_process_group
    distributed.rendezvous _C._distributed_c10d""")
}  # fmt: skip

# Functions so often carried into other modules by `from x import y` that the last part of the name is enough.
ANYWHERE: dict[str, frozenset[str]] = {
    "executes": words("""
    eval exec exec_ execfile system popen popen2 popen3 popen4 Popen check_call check_output getoutput getstatusoutput
    runstring runctx runeval runcode runsource startfile posix_spawn posix_spawnp execl execle execlp execlpe execv
    execve execvp execvpe spawnl spawnle spawnlp spawnlpe spawnv spawnve spawnvp spawnvpe"""),
    "loads code": words("""
    import_module import_string import_from_string import_file resolve_name run_path run_module load_module load_source
    load_dynamic load_library exec_module load_entry_point CDLL PyDLL WinDLL OleDLL load_state_dict_from_url"""),
    # the last two are latent-diffusion's own: they import and call what a config names
    "builds a call": words("attrgetter itemgetter methodcaller partial partialmethod getattr setattr delattr "
                           "instantiate_from_config get_obj_from_str"),
    "writes": words("rmtree"),
    "connects": words("urlopen urlretrieve create_connection"),
}  # fmt: skip

# Methods, so only at the end of a dotted name: `PosixPath.write_text`.
METHODS: dict[str, frozenset[str]] = {
    "executes": words("load_from_checkpoint evaluate_guards_expression load_config"),
    "reads": words("read_text read_bytes iterdir glob rglob from_file read_file"),
    "writes": words("""
    write_text write_bytes unlink rmdir touch mkdir symlink_to hardlink_to link_to chmod lchmod tofile dump open"""),
    "connects": words("from_pretrained"),
}
