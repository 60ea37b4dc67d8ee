#include "executor_rig.hpp"

#include <nixbuild/base/error.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

namespace nixbuild::tests {

namespace fs = std::filesystem;

sandbox::QemuExecutorSettings fake_settings(const ScratchFolder& folder, const std::string& role) {
  const auto kernel = folder.path() / "bzImage";
  if (!fs::exists(kernel)) {
    std::string image(8192, '\0');
    image[0x1f1] = 1;
    image.replace(0x202, 4, "HdrS");
    image[0x206] = 0x0f;
    image[0x207] = 2;
    image[0x24d] = 1; // a payload of 256 bytes in an unknown format
    std::ofstream(kernel, std::ios::binary) << image;
  }
  sandbox::QemuExecutorSettings settings;
  settings.runner = RUNNER_PATH;
  settings.guest = FAKE_EMULATOR_PATH; // any program: it is never run
  settings.busybox = FAKE_EMULATOR_PATH;
  settings.qemu = FAKE_EMULATOR_PATH;
  settings.run_directory = folder.path() / "run";
  settings.kernel_cache = folder.path() / "kernels";
  settings.kernel = sandbox::KernelSource{kernel, {}, "1.0"};
  settings.accelerator = sandbox::AcceleratorChoice::Tcg;
  settings.kernel_options = "role=" + role;
  settings.grace = std::chrono::seconds(1);
  settings.guest_patience = std::chrono::seconds(3);
  return settings;
}

sandbox::ExecutionPlan small_plan(const ScratchFolder& folder, std::vector<std::string> outputs) {
  const auto disk = folder.path() / "disk";
  std::ofstream(disk, std::ios::binary) << std::string(4096, '\0');
  sandbox::ExecutionPlan plan;
  plan.id = "test-1";
  plan.job.builder = "/bin/sh";
  for (auto& name : outputs) {
    plan.job.outputs.push_back({"out", std::move(name)});
  }
  plan.disk.push_back({UniqueFd(::open(disk.c_str(), O_RDONLY | O_CLOEXEC)), 0, 4096});
  return plan;
}

aio::Task<Record> follow(sandbox::Execution& execution) {
  Record record;
  for (;;) {
    auto event = co_await execution.next_event();
    if (auto* log = std::get_if<sandbox::LogChunk>(&event)) {
      record.log += log->bytes;
    } else if (auto* phase = std::get_if<sandbox::PhaseBegan>(&event)) {
      record.phases.push_back(phase->phase);
      record.phase_times.push_back(phase->since_start);
    } else {
      record.exit = std::get<sandbox::BuilderExited>(event).exit;
      co_return record;
    }
  }
}

aio::Task<std::string> collect(sandbox::Execution& execution, std::size_t index) {
  co_await execution.open_output(index);
  std::string output;
  Bytes buffer(50'000);
  for (;;) {
    const auto got = co_await execution.read_output(buffer);
    if (got == 0) {
      co_return output;
    }
    output += text_of(ByteView(buffer).first(got));
  }
}

std::string code_of(boost::asio::io_context& io, aio::Task<void> task) {
  try {
    run_on(io, std::move(task));
  } catch (const Error& error) {
    return error.code();
  }
  return "none";
}

bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 200; ++i) {
    if (condition()) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return false;
}

} // namespace nixbuild::tests
