"""`parley.file.v1.FileService`: protobuf in, one call of the domain, protobuf out."""
