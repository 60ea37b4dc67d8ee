#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/server/ssh_key.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <string>

namespace ssh_key_test {

using namespace nixbuild;

namespace {

struct KeySample {
  std::string algorithm;
  std::string base64;
  std::string fingerprint;

  [[nodiscard]] std::string line() const { return algorithm + " " + base64 + " nobody"; }
};

/// Made by ssh-keygen, fingerprints too.
const std::array<KeySample, 5> kSamples = {{
    {"ssh-ed25519",
     "AAAAC3NzaC1lZDI1NTE5AAAAIHn5D/H1v+mD5IS/7ZbwbZp31aHHe/Gv/1I+LMIETitF",
     "SHA256:guKesSdV0XCjOtTcHjeDBdtH27/bUnHmOEJJafEEf/M"},
    {"ecdsa-sha2-nistp256",
     "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBMX8GTkzA519DeoeULLoyGr8"
     "Qc5dA/ouwaxWs89YI6nAmty61Cx7SiCOKBG6evQDuYFA4F3VNWtjpooftzaUC7U=",
     "SHA256:6+O20159yOGaQNW/6Y2CIM2m110cdD5q2Kfyuxd/0XA"},
    {"ecdsa-sha2-nistp384",
     "AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBCeCan5pMxEpdwswkbYkJWJy"
     "fZJbbKlQ7+uwfsJULT/8aRCd+yOt90xKG3g0Lwp7nCIKvNvuKQXMjwzysjWmjI13cxaN+2+IIrW3"
     "KzYWz8Jm/i4Vermun6fzSoJNSL1Cqg==",
     "SHA256:JhUGQqogn/n0z687nhoDtzvaw/iDh3dzBNAQgM5+Iqo"},
    {"ecdsa-sha2-nistp521",
     "AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBABI2T1HJFXEyDosVy89bVBD"
     "kAnvoPyRhPUIvMI9Kw6zdCcNGyJk9e2HdOBwJC8JAb+LfvO/sDOCmOc4euywPAJ8awHmyAeK4o8O"
     "F03HBaecA445otBw+n/T4sW27zMy2AGNddKfindk8zN9wf/E8k/ZqczcjJVQ0JJ8EgKpZk36sIPe"
     "EA==",
     "SHA256:5+cXojSqXD1OJQ3N9pOYhrkQCmtNR0s/2S7nkmMRPKs"},
    {"ssh-rsa",
     "AAAAB3NzaC1yc2EAAAADAQABAAABAQCiwg0wHsgI1n71mk+/72/bshiSybw6ksDAu+UCcOeJhNoR"
     "XSD2cPvbuA5fyY24PzL6f8iXR8SgjGU6VvWlQCgbzJI1lTNTjOz79WVapQCXT3P2/tCfIqOvKlDL"
     "leR62q4bMTssmvX4tjaUFG8aQKSsUsyH76TihWdtORTQnIDENzjcAmh2zoFl+mGYHcltNUgceDGY"
     "LCfZZgr/e0PM7N88PP3t9FNEZw8VCCjD2d7a9Diiw0JoQfuU6q+EY+iy/DPiXqrdnrAOAzjaAd2j"
     "Esdy8ztxmDa+PeZS1uUlQPSCpvcSbudhQzDvJg4IVdZ28+jWptURLyxVmOeyODk5Eywr",
     "SHA256:eLEn5FzMmCXDjPdbCE+GiTnAaxtn11Adal2lv8HgOs0"},
}};

const KeySample kShortRsa = {
    "ssh-rsa",
    "AAAAB3NzaC1yc2EAAAADAQABAAAAgQDSjjah4aN4Fc5Pbl7t1pEMfaD5US4AkDcT089fHpGQO++q"
    "cWfWCwHk5tm4g5MBMytU5RWJr5WcyNOE3mPuV8vwV7EGWeXR2kN3+z39LvsH8r4+3KInmCiB0H8r"
    "arSHMEQlO0oJ/YLd23p7O8+50ap+ZDNZkx0KfeODmfq8GPSDkw==",
    ""};

std::string code_of(const std::string& text) {
  try {
    (void)server::parse_public_key(text);
  } catch (const Error& error) {
    return error.code();
  }
  return {};
}

std::string message_of(const std::string& text) {
  try {
    (void)server::parse_public_key(text);
  } catch (const Error& error) {
    return error.message();
  }
  return {};
}

void put_string(std::string& blob, const std::string& text) {
  blob += std::string(3, '\0') + static_cast<char>(text.size()) + text;
}

std::string line_of(const std::string& algorithm, const std::string& blob) {
  return server::public_key_text(algorithm, blob);
}

} // namespace

TEST_CASE("public keys: every kind that is taken comes back as OpenSSH has it",
          "[server][roundtrip]") {
  for (const auto& sample : kSamples) {
    CAPTURE(sample.algorithm);
    const auto key = server::parse_public_key("# a comment\n\n  " + sample.line() + "\r\n");
    CHECK(key.algorithm == sample.algorithm);
    CHECK(key.comment == "nobody");
    CHECK(server::fingerprint_of(key.blob) == sample.fingerprint);
    CHECK(server::public_key_text(key.algorithm, key.blob) ==
          sample.algorithm + " " + sample.base64);
  }
  CHECK(server::parse_public_key(kSamples[0].line() + " at home").comment == "nobody at home");
  CHECK(
      server::parse_public_key(kSamples[0].algorithm + "\t" + kSamples[0].base64).comment.empty());
}

TEST_CASE("public keys: security keys carry the name of an application", "[server]") {
  const auto plain = server::parse_public_key(kSamples[0].line());
  std::string blob;
  put_string(blob, "sk-ssh-ed25519@openssh.com");
  put_string(blob, plain.blob.substr(plain.blob.size() - 32));
  CHECK(code_of(line_of("sk-ssh-ed25519@openssh.com", blob)) == "key.malformed");
  put_string(blob, "ssh:");
  CHECK(code_of(line_of("sk-ssh-ed25519@openssh.com", blob)).empty());
}

TEST_CASE("public keys: damaged keys are told apart from good ones", "[server][reject]") {
  const auto good = server::parse_public_key(kSamples[0].line()).blob;
  for (std::size_t size = 0; size < good.size(); ++size) {
    CHECK(code_of(line_of("ssh-ed25519", good.substr(0, size))) == "key.malformed");
  }
  CHECK(code_of(line_of("ssh-ed25519", good + "x")) == "key.malformed");
  CHECK(code_of(line_of("ssh-rsa", good)) == "key.malformed");
  auto curve = server::parse_public_key(kSamples[1].line()).blob;
  curve.back() = 'x';
  CHECK(code_of(line_of("ecdsa-sha2-nistp256", curve)).empty()); // another point
  curve[curve.size() - 65] = 2; // compressed points are not what OpenSSH writes
  CHECK(code_of(line_of("ecdsa-sha2-nistp256", curve)) == "key.malformed");
  std::string huge("\xff\xff\xff\xff", 4);
  CHECK(code_of(line_of("ssh-ed25519", huge)) == "key.malformed");
  std::string empty_rsa;
  put_string(empty_rsa, "ssh-rsa");
  put_string(empty_rsa, "");
  put_string(empty_rsa, "");
  CHECK(code_of(line_of("ssh-rsa", empty_rsa)) == "key.malformed");
  for (const auto& text : {std::string(),
                           std::string("\n# only a comment\n"),
                           std::string("ssh-ed25519"),
                           std::string("ssh-ed25519 not*base64"),
                           std::string("hello world"),
                           kSamples[0].line() + "\n" + kSamples[1].line(),
                           std::string(server::kPublicKeyBytes + 1, 'x')}) {
    CHECK(code_of(text) == "key.malformed");
  }
}

TEST_CASE("public keys: what people paste by mistake gets an answer that helps",
          "[server][reject]") {
  const auto options = "restrict,command=\"true\" " + kSamples[0].line();
  CHECK(code_of(options) == "key.options");
  CHECK(message_of(options).find("leave them out") != std::string::npos);
  const std::string secret = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n";
  CHECK(code_of(secret) == "key.private");
  CHECK(message_of(secret).find("b3Blb") == std::string::npos);
  CHECK(code_of("ssh-dss AAAA nobody") == "key.unsupported");
  CHECK(code_of("ssh-ed25519-cert-v01@openssh.com AAAA nobody") == "key.unsupported");
  CHECK(code_of(kShortRsa.line()) == "key.unsupported");
  CHECK(message_of(kShortRsa.line()).find("1024 bits") != std::string::npos);
  CHECK(message_of("\x1b]0;t\x07 x").find('\x1b') == std::string::npos);
  server::PublicKey strange;
  strange.algorithm = "ssh-strange";
  CHECK_THROWS_AS(server::check_public_key(strange), Error);
}

} // namespace ssh_key_test
