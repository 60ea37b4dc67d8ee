#include "support/scratch_folder.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/probe.hpp>

#include <catch2/catch.hpp>
#include <unistd.h>

#include <filesystem>
#include <fstream>

using namespace nixbuild;
using namespace nixbuild::sandbox;
namespace fs = std::filesystem;

TEST_CASE("probe: comes to a decision within its deadline and says why", "[sandbox]") {
  KvmProbeSettings settings;
  settings.deadline = std::chrono::milliseconds(500);
  const auto probe = probe_kvm(settings);
  INFO(probe.reason);
  CHECK_FALSE(probe.reason.empty());
  CHECK(probe.took < std::chrono::seconds(5));
  // Both answers are right somewhere; forcing KVM must agree with the probe.
  if (probe.accelerator == Accelerator::Tcg) {
    try {
      (void)choose_accelerator(AcceleratorChoice::Kvm);
      FAIL("KVM was promised");
    } catch (const Error& error) {
      CHECK(error.code() == "sandbox.accelerator");
      CHECK(error.reaction() == Reaction::Unsupported);
      CHECK(error.message().find("sandbox.accelerator = \"kvm\"") != std::string::npos);
    }
  }
}

TEST_CASE("probe: what only root may open is no KVM for an emulator of another user", "[sandbox]") {
  if (::geteuid() != 0) {
    WARN("skipped: only root can be somebody else");
    return;
  }
  const tests::ScratchFolder folder;
  const auto device = folder.path() / "kvm";
  std::ofstream(device) << "no device";
  const auto says = [&](std::optional<uid_t> uid, fs::perms mode) {
    fs::permissions(folder.path(), fs::perms(0755));
    fs::permissions(device, mode);
    KvmProbeSettings settings;
    settings.uid = uid;
    settings.device = device.c_str();
    const auto probe = probe_kvm(settings);
    CHECK(probe.accelerator == Accelerator::Tcg);
    return probe.reason;
  };
  constexpr uid_t emulator = 700'000;
  CHECK(says(std::nullopt, fs::perms(0600)).starts_with("KVM makes no machine"));
  CHECK(says(emulator, fs::perms(0666)).starts_with("KVM makes no machine"));
  const auto refused = says(emulator, fs::perms(0600));
  CHECK(refused.find("cannot be opened by the emulators' user (uid 700000") != std::string::npos);
  CHECK(refused.find("Permission denied") != std::string::npos);
}

TEST_CASE("probe: a choice is read from its name", "[sandbox]") {
  CHECK(accelerator_choice_of("auto") == AcceleratorChoice::Auto);
  CHECK(accelerator_choice_of("kvm") == AcceleratorChoice::Kvm);
  CHECK(accelerator_choice_of("tcg") == AcceleratorChoice::Tcg);
  CHECK_THROWS_AS(accelerator_choice_of("KVM"), Error);
  CHECK(choose_accelerator(AcceleratorChoice::Tcg).accelerator == Accelerator::Tcg);
}
