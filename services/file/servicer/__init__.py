"""`parley.file.v1.FileService`, in parts: protobuf in, one call of the domain, protobuf out."""
