#pragma once

#include "sandbox/runner_link.hpp"

#include <nixbuild/sandbox/executor.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace nixbuild::sandbox {

/// Where a build's runner is, and its machine's control group (empty: none).
struct RunFolder {
  std::filesystem::path directory;
  std::filesystem::path cgroup;
};

/// A build behind a runner.
class QemuExecution final : public Execution {
public:
  /// `outputs` is how many the job has: the guest's answer must have as many.
  QemuExecution(boost::asio::any_io_executor executor,
                UniqueFd socket,
                RunFolder folder,
                std::size_t outputs);
  ~QemuExecution() override;
  QemuExecution(const QemuExecution&) = delete;
  QemuExecution& operator=(const QemuExecution&) = delete;

  /// Hands the plan over and waits until the emulator runs; what its runner says of it.
  aio::Task<runner::Accepted>
  begin(runner::Start start, UniqueFd kernel, UniqueFd initramfs, std::vector<DiskExtent> disk);

  /// Attaches to a runner that an earlier daemon has started; its log comes from here on.
  aio::Task<void> attach(std::uint64_t log_offset, std::optional<std::chrono::microseconds> age);

  aio::Task<ExecutionEvent> next_event() override;
  aio::Task<void> open_output(std::size_t index) override;
  aio::Task<std::size_t> read_output(MutableBytes buffer) override;
  aio::Task<void> open_terminal() override;
  aio::Task<void> type_in(std::string bytes, std::uint32_t rows, std::uint32_t columns) override;
  aio::Task<void> finish() override;

  [[nodiscard]] MachineUsage usage() const override { return usage_; }

  [[nodiscard]] std::optional<std::chrono::microseconds> age() const override { return age_; }

  void cancel() noexcept override;
  void detach() noexcept override;

private:
  aio::Task<runner::Message> receive();
  aio::Task<void> ask_for_output(std::size_t index);
  aio::Task<void> wait_until_down();

  boost::asio::any_io_executor executor_;
  RunnerLink link_;
  RunFolder folder_;
  std::size_t outputs_;
  std::uint64_t log_offset_ = 0;
  std::string output_; ///< bytes of the output that nobody has read yet
  std::size_t output_taken_ = 0;
  MachineUsage usage_;
  std::optional<std::chrono::microseconds> age_;
  std::optional<runner::Measured> measured_;
  bool output_open_ = false;
  bool exited_ = false;
  bool said_last_ = false; ///< it has said its last word, and removes its folder
  bool over_ = false;      ///< the runner has said its last word, was told to kill, or was let go
};

} // namespace nixbuild::sandbox
