// Package image makes bastiond's container image without a container engine, and
// pushes it.
//
// The image is an OCI index with one image for each of [Platforms]. Each has one
// layer on nothing: the program and the certificates of the public CAs. There is
// no shell and no package in it, so nothing but bastiond can run in the task, and
// nothing but bastiond and its modules has to be patched.
//
// The same source, modules and Go release give the same digest, whoever builds,
// wherever and whenever: times are fixed, the compiler is told to leave out paths,
// and the compression runs in one piece. So a digest in a task definition can be
// checked by building again.
//
// Layers are compressed with zstd, which unpacks faster than gzip while a person
// waits for the task. ECR stores it, and Fargate has read it since platform
// version 1.4 ("Reducing AWS Fargate Startup Times with zstd Compressed Container
// Images", AWS Containers Blog).
package image
