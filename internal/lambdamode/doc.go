// Package lambdamode wires the service on AWS, as localmode does on a laptop: the
// domain on awscloud, configured by config, behind API Gateway, schedules and
// events. The mains in functions/ choose the part that each function serves.
package lambdamode
