// Builds a derivation in a virtual machine, without daemon and without Nix:
//     run_derivation /usr/local/libexec/nixbuild /boot/vmlinuz-V /lib/modules/V /bin/busybox WORK

#include <nixbuild/aio/system_clock.hpp>
#include <nixbuild/build/builder.hpp>
#include <nixbuild/nar/writer.hpp>
#include <nixbuild/sandbox/qemu_executor.hpp>
#include <nixbuild/sandbox/tree_archive.hpp>
#include <nixbuild/store/memory.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <fcntl.h>

#include <iostream>

using namespace nixbuild;

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: run_derivation PROGRAMS VMLINUZ MODULES BUSYBOX WORK\n";
    return 2;
  }
  const auto db = store::make_memory_metadata();
  const auto segments = store::make_memory_segments();
  const auto logs = store::make_memory_logs();
  const aio::SystemClock clock;
  store::Store store(*db, *segments, clock, model::StoreDir("/nix/store"));
  const auto account = db->ensure_account("default");

  const auto shell = model::StorePath::parse("00000000000000000000000000000000-shell");
  std::string archive;
  StringSink sink(archive);
  nar::Writer writer(sink);
  writer.directory();
  writer.entry("busybox");
  sandbox::archive_tree(AT_FDCWD, argv[4], writer, {});
  writer.directory_end();
  writer.finish();
  auto import = store.begin_import(account, {.path = shell});
  import.feed(bytes_of(archive));
  const auto info = import.seal();
  store.commit(account, {&info, 1});
  model::Derivation derivation;
  derivation.input_sources = {shell};
  derivation.platform = "x86_64-linux";
  derivation.builder = store.dir().print(shell) + "/busybox";
  derivation.arguments = {"sh", "-c", "echo building; echo made in a machine > $out"};
  derivation.outputs["out"] = {};
  derivation.environment["out"] = "";
  const auto out = model::input_addressed_paths(store.dir(), "demo", derivation, {}).at("out");
  derivation.outputs["out"].path = out;
  derivation.environment["out"] = store.dir().print(out);
  boost::asio::io_context io;
  sandbox::QemuExecutorSettings settings;
  settings.runner = std::string(argv[1]) + "/nixbuild-runner";
  settings.guest = std::string(argv[1]) + "/nixbuild-guest";
  settings.kernel = sandbox::KernelSource{argv[2], argv[3], ""};
  settings.run_directory = std::string(argv[5]) + "/run";
  settings.kernel_cache = std::string(argv[5]) + "/kernels";
  const auto executor = sandbox::make_qemu_executor(io.get_executor(), settings);
  build::LeaseDesk leases({}, {{"local", 1, 2 * kGiB, {derivation.platform}, {}}}, clock);
  aio::BlockingPool pool(2);
  NullLog log;
  build::Builder builder({store, *logs, *executor, leases, pool, clock, log}, {});
  const auto feed = std::make_shared<build::LogFeed>();
  const auto control = std::make_shared<build::BuildControl>();
  const auto drv = model::derivation_path(store.dir(), "demo", derivation);
  auto task = builder.run({account, drv, derivation, {}}, feed, control, [](std::int64_t) {});
  auto future = boost::asio::co_spawn(io, std::move(task), boost::asio::use_future);
  io.run();
  const auto result = future.get();
  std::cout << feed->read(0).bytes << name_of(result.status) << ' ' << result.error << std::endl;
  const auto built = store.open_export(account, out);
  std::cout << built.read_file(built.tree().root(), kMiB);
}
