#pragma once

#include "steps.hpp"
#include "watchdog.hpp"

#include <nixbuild/build/builder.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace nixbuild::build {

/// One build's life.
class Attempt {
public:
  Attempt(const Builder::Parts& parts,
          const BuilderSettings& settings,
          BuildRequest request,
          std::shared_ptr<LogFeed> feed,
          std::shared_ptr<BuildControl> control)
      : parts_(parts), settings_(settings), request_(std::move(request)), feed_(std::move(feed)),
        control_(std::move(control)), lease_(parts.store.lease(request_.account)),
        watch_(std::make_shared<Watch>()),
        drv_text_(parts.store.dir().print(request_.derivation_path)) {}

  aio::Task<model::BuildResult> run(const std::function<void(std::int64_t)>& on_number);

private:
  aio::Task<void> record();
  aio::Task<bool> outputs_valid();
  void name_outputs();
  aio::Task<void> resolve_inputs();
  aio::Task<ComputeLease> lease_machine();
  aio::Task<void> choose_accelerator();
  aio::Task<void> start();
  aio::Task<sandbox::GuestExit> follow();
  aio::Task<void> take_log(std::string bytes);
  void judge(const sandbox::GuestExit& exit) const;
  void judge_outputs(const sandbox::GuestExit& exit) const;
  aio::Task<void> collect();
  aio::Task<model::PathInfo> collect_output(std::size_t index);
  aio::Task<void> register_outputs();
  [[noreturn]] void throw_stopped() const;
  void note_phase(const std::string& phase, std::chrono::microseconds at);
  [[nodiscard]] std::int64_t now_us() const;
  [[nodiscard]] std::string phases_json() const;
  model::BuildResult success(model::BuildStatus status) const;

  const Builder::Parts& parts_;
  const BuilderSettings& settings_;
  BuildRequest request_;
  std::shared_ptr<LogFeed> feed_;
  std::shared_ptr<BuildControl> control_;
  store::Lease lease_;
  std::shared_ptr<Watch> watch_;
  std::string drv_text_;

  store::BuildRecord record_;
  std::vector<std::string> output_names_;
  model::StorePaths output_paths_;
  std::map<std::string, std::vector<std::string>> output_signatures_;
  model::StorePaths closure_;
  std::unique_ptr<sandbox::Execution> execution_;
  std::vector<model::PathInfo> built_;
  std::vector<std::pair<std::string, std::chrono::microseconds>> phases_;
};

} // namespace nixbuild::build
