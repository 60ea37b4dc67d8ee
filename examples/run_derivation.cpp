// Builds one derivation in a virtual machine, without daemon and without Nix: a static busybox
// becomes a store path, and a script run by it makes the output.
//
//     run_derivation PROGRAMS VMLINUZ MODULES BUSYBOX SCRIPT
//
// PROGRAMS is the folder of nixbuild-runner and nixbuild-guest (…/libexec/nixbuild), VMLINUZ and
// MODULES are a distribution's kernel. SCRIPT is what the shell runs: 'echo hello > $out'.

#include <nixbuild/base/error.hpp>
#include <nixbuild/build/builder.hpp>
#include <nixbuild/nar/writer.hpp>
#include <nixbuild/sandbox/qemu_executor.hpp>
#include <nixbuild/sandbox/tree_archive.hpp>
#include <nixbuild/store/memory.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <fcntl.h>

#include <filesystem>
#include <iostream>

using namespace nixbuild;

class SystemClock final : public Clock {
  WallTime wall() const override {
    return std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::system_clock::now());
  }
  MonotonicTime monotonic() const override { return std::chrono::steady_clock::now(); }
};

/// Puts one file into the store, named after its contents.
model::StorePath add_file(store::Store& store, store::AccountId account, const char* file) {
  std::string archive;
  StringSink sink(archive);
  nar::Writer writer(sink);
  sandbox::archive_tree(AT_FDCWD, file, writer, {});
  writer.finish();
  const auto hash = hash_of(HashAlgorithm::Sha256, bytes_of(archive));
  store::ImportRequest request{model::make_store_path(store.dir(), "source", hash, "busybox")};
  auto import = store.begin_import(account, request);
  import.feed(bytes_of(archive));
  const auto info = import.seal();
  store.commit(account, {&info, 1});
  return info.path;
}

int main(int argc, char** argv) try {
  if (argc != 6) {
    std::cerr << "usage: run_derivation PROGRAMS VMLINUZ MODULES BUSYBOX SCRIPT\n";
    return 2;
  }
  const auto db = store::make_memory_metadata();
  const auto segments = store::make_memory_segments();
  const auto logs = store::make_memory_logs();
  SystemClock clock;
  store::Store store(*db, *segments, clock, model::StoreDir("/nix/store"));
  const auto account = db->ensure_account("default");
  const auto busybox = add_file(store, account, argv[4]);

  model::Derivation derivation;
  derivation.input_sources = {busybox};
  derivation.platform = "x86_64-linux";
  derivation.builder = store.dir().print(busybox);
  derivation.arguments = {"sh", "-c", argv[5]};
  derivation.environment = {{"name", "example"}, {"out", ""}};
  derivation.outputs = {{"out", {}}};
  const auto out = model::input_addressed_paths(store.dir(), "example", derivation, {}).at("out");
  derivation.outputs["out"].path = out;
  derivation.environment["out"] = store.dir().print(out);

  const auto work = std::filesystem::temp_directory_path() / ("example-" + std::to_string(::getpid()));
  boost::asio::io_context io;
  sandbox::QemuExecutorSettings settings;
  settings.runner = std::filesystem::path(argv[1]) / "nixbuild-runner";
  settings.guest = std::filesystem::path(argv[1]) / "nixbuild-guest";
  settings.run_directory = work / "run";
  settings.kernel_cache = work / "kernels";
  settings.kernel = sandbox::KernelSource{argv[2], argv[3], ""};
  const auto executor = sandbox::make_qemu_executor(io.get_executor(), settings);
