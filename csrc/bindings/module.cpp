#include "bindings/bind.h"

PYBIND11_MODULE(_core, module) {
  pycat::bind_errors(module);
  pycat::bind_corpus(module);
  pycat::bind_batches(module);
  pycat::bind_cross_entropy(module);
  pycat::bind_transformer(module);
  pycat::bind_language(module);
  pycat::bind_ibm_model1(module);
  pycat::bind_coverage(module);
  pycat::bind_ranking(module);
  pycat::bind_rules(module);
  pycat::bind_training(module);
}
