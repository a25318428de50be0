"""Networks executed by OpenVINO and ONNX Runtime on the CPU."""
