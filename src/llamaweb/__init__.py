"""Large language models in the browser, planned and run by Python on WebGPU."""
