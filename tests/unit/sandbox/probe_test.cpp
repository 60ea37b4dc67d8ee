#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/probe.hpp>

#include <catch2/catch.hpp>

using namespace nixbuild;
using namespace nixbuild::sandbox;

TEST_CASE("probe: comes to a decision within its deadline and says why", "[sandbox]") {
  const auto probe = probe_kvm(std::chrono::milliseconds(500));
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
    }
  }
}

TEST_CASE("probe: a choice is read from its name", "[sandbox]") {
  CHECK(accelerator_choice_of("auto") == AcceleratorChoice::Auto);
  CHECK(accelerator_choice_of("kvm") == AcceleratorChoice::Kvm);
  CHECK(accelerator_choice_of("tcg") == AcceleratorChoice::Tcg);
  CHECK_THROWS_AS(accelerator_choice_of("KVM"), Error);
  CHECK(choose_accelerator(AcceleratorChoice::Tcg).accelerator == Accelerator::Tcg);
}
